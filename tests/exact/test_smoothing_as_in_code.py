"""The published code's slips: each is what its formula says, and only that; draws are those of the exact families."""

import math

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.variational import dvae, dvae_pp, dvae_sharp
from dgmbench.models.variational.smoothing.as_in_code import (
    ClippedSpikeAndExponential,
    OffsetPowerFunction,
    SlippedShiftedGaussian,
)
from dgmbench.models.variational.smoothing.power_function import PowerFunction
from dgmbench.models.variational.smoothing.shifted_gaussian import ShiftedGaussian
from dgmbench.models.variational.smoothing.spike_and_exponential import SpikeAndExponential
from dgmbench.training.session import Session


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_power_function_with_the_offset():
    one, zeta = OffsetPowerFunction(30.0), double([0.0, 1e-8, 0.3, 1.0])
    off, on = one.log_densities(zeta)
    expected = [math.log(1 / 30) + (1 / 30 - 1) * math.log(value + 1e-7) for value in zeta.tolist()]
    assert off.tolist() == pytest.approx(expected)
    assert on.flip(0)[0].item() == pytest.approx(expected[0])
    assert one.distributions(zeta)[0].tolist() == pytest.approx([(v + 1e-7) ** (1 / 30) for v in zeta.tolist()])
    assert one.log_ratio(double([0.0])).item() == pytest.approx((1 / 30 - 1) * -math.log(1e-7), rel=1e-6)
    inside = double([0.2, 0.6])
    torch.testing.assert_close(one.log_densities(inside), PowerFunction(30.0).log_densities(inside), rtol=0, atol=1e-6)


def test_spike_and_exponential_has_no_gradient_of_certain_units():
    logits = double([0.0, 15.0, 17.0, 40.0]).requires_grad_(True)
    slipped, exact = ClippedSpikeAndExponential(5.0), SpikeAndExponential(5.0)
    drawn = [one.sample(logits, torch.Generator().manual_seed(3)) for one in (slipped, exact)]
    torch.testing.assert_close(*drawn)
    (gradient,) = torch.autograd.grad(drawn[0].sum(), logits)
    assert (gradient[:2] > 0).all()
    assert gradient[2:].tolist() == [0, 0]


@pytest.mark.parametrize("logit", [-1.0, 0.5, 3.0])
def test_gradient_of_sd_has_no_shift_in_its_distances(logit):
    sd, shift, q = double(0.3).requires_grad_(True), double(0.2), 1 / (1 + math.exp(-logit))
    for slip in (True, False):
        one = (SlippedShiftedGaussian if slip else ShiftedGaussian)(sd**-2, shift)
        zeta = one.sample(torch.full((500,), logit, dtype=torch.float64), torch.Generator().manual_seed(1))
        (found,) = torch.autograd.grad(zeta.sum(), sd)
        value, moved = zeta.detach(), 0.0 if slip else shift
        off, on = (log_density.detach().exp() for log_density in one.log_densities(value))
        above = (1 - q) * off * (value - moved) + q * on * (value - 1 - moved)
        assert found.item() == pytest.approx((above / (0.3 * ((1 - q) * off + q * on))).sum().item(), rel=1e-9)


def test_gradients_of_the_logit_and_of_the_shift_are_exact():
    logits, shift = double([0.3, -2.0, 12.0]), double(0.1).requires_grad_(True)
    found = []
    for family in (SlippedShiftedGaussian, ShiftedGaussian):
        leaf = logits.clone().requires_grad_(True)
        zeta = family(double(12.0), shift).sample(leaf, torch.Generator().manual_seed(2))
        found.append(torch.autograd.grad(zeta.sum(), (leaf, shift)))
    torch.testing.assert_close(*found)


def test_log_q_of_certain_units_is_raised():
    zeta, exact, slipped = double([0.9, 1.2]), ShiftedGaussian(20.0, 0.1), SlippedShiftedGaussian(20.0, 0.1)
    for logit, excess in ((-4.0, 0.0), (9.0, 0.0), (12.0, 12.0 + math.log(1e-4))):
        logits = torch.full((2,), logit, dtype=torch.float64)
        raised = slipped.mixture_log_prob(zeta, logits) - exact.mixture_log_prob(zeta, logits)
        assert raised.tolist() == pytest.approx([excess] * 2, abs=1e-4)


def data() -> Dataset:
    x = (np.random.default_rng(1).random((60, 6)) < 0.4).astype(np.uint8)
    return Dataset("made-up", "made-up", "binary", (6,), {"train": Split(x[:40]), "validation": Split(x[40:])}, {})


def killed(session: Session, stop: int) -> None:
    if session.step == stop:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("module", "spec"),
    [
        (dvae, {"learning_rate": 2.0, "beta": 5.0}),
        (dvae_pp, {"smoothing": "power"}),
        (dvae_sharp, {"relaxation": "power"}),
        (dvae_sharp, {"relaxation": "gaussian-integral"}),
    ],
)
def test_slips_change_a_training_and_survive_a_kill(module, spec, tmp_path, monkeypatch):
    """Bits after a kill at every step are those of an undisturbed training, the kept norm of W included."""
    # Weights that must be certain, or drawn at the ends, before a slip shows: many steps, each one large.
    hurried = {"iterations": 60, "learning_rate": 0.3, "warm_up": 0.0, "beta": 30.0}
    spec = {**module.SMOKE, **hurried, **spec}

    def train(formulas: str, path=None, stop=None) -> dict[str, torch.Tensor]:
        model = module.Model(module.Spec(**spec, formulas=formulas), 6)
        session = Session(torch.Generator().manual_seed(0), checkpoint_path=path, checkpoint_seconds=0.0)
        if stop is not None:
            monkeypatch.setattr(session, "record", lambda **values: killed(session, stop))
        model.fit(data(), session)
        return model.state()

    whole = train("code")
    for stop in (7, 41):
        with pytest.raises(KeyboardInterrupt):
            train("code", tmp_path / "checkpoint", stop)
    continued = train("code", tmp_path / "checkpoint")
    assert whole.keys() == continued.keys()
    for name, value in whole.items():
        torch.testing.assert_close(continued[name], value, rtol=0, atol=0)
    assert any(not torch.equal(value, whole[name]) for name, value in train("paper").items())
    assert ("norm" in whole) == (module is dvae_sharp)
    if spec.get("relaxation") == "gaussian-integral":
        weights = whole["prior.weights"]
        assert whole["norm"].item() == pytest.approx(torch.linalg.matrix_norm(weights, 2).item(), rel=1e-5)
