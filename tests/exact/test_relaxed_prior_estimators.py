"""Mean field of a relaxed prior and the noise of its gradients: every z, differences, quadrature over two zeta."""

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import logit_gradient, mean_field_divergence
from dgmbench.estimators._relaxed_prior import RelaxedSettings, relaxed_machine
from dgmbench.estimators.base import Workbench
from dgmbench.models.boltzmann import rbm
from dgmbench.models.boltzmann._binary import draw
from dgmbench.models.variational import dvae_sharp

SMOOTHINGS = [("exponential", 6.0), ("uniform_exponential", 9.0), ("power_function", 5.0), ("gaussian", 12.0)]


def machine(visible: int, hidden: int, coupling: float = 1.0, seed: int = 0) -> rbm.Model:
    g = torch.Generator().manual_seed(seed)
    model = rbm.Model(rbm.Spec(hidden=hidden), visible)
    model.weights = coupling * torch.randn(visible, hidden, generator=g)
    model.visible_bias, model.hidden_bias = torch.randn(visible, generator=g), torch.randn(hidden, generator=g)
    return model


def autoencoder(dimension: int, latent: int, seed: int = 0, **spec) -> dvae_sharp.Model:
    """Every parameter drawn; hidden layers are normalised by running statistics of mean 0 and variance 1."""
    g = torch.Generator().manual_seed(seed)
    model = dvae_sharp.Model(dvae_sharp.Spec(latent=latent, **spec), dimension)
    fitted = {name: 0.7 * torch.randn(value.shape, generator=g) for name, value in model.parameters.items()}
    model.load_state({**model.state(), **fitted, "mean": torch.full((dimension,), 0.4)})
    return model


def dataset(n: int, d: int, seed: int = 1) -> Dataset:
    x = (np.random.default_rng(seed).random((n, d)) < 0.4).astype(np.float32)
    return Dataset("made-up", "made-up-1", "binary", (d,), {"train": Split(x), "test": Split(x)}, {})


def bench(seed: int = 3) -> Workbench:
    return Workbench(torch.Generator().manual_seed(seed))


def divergence(model: rbm.Model, data: Dataset, **settings):
    return mean_field_divergence.estimate(model, data, mean_field_divergence.Settings(**settings), bench())


def sigmoid(t: float) -> float:
    return 1 / (1 + math.exp(-t))


def by_definition(model: rbm.Model, zeta: Tensor, settings: RelaxedSettings) -> np.ndarray:
    """KL(m || p(z given zeta)) = sum_z m(z) log m(z) / p(z given zeta) after each round, z by z: (rounds + 1, n)."""
    w, a, b = (part.double().numpy() for part in (model.weights, model.visible_bias, model.hidden_bias))
    d, k = w.shape
    every = np.array(list(itertools.product((0.0, 1.0), repeat=d + k)))
    smoothing, found = settings.formed(), np.empty((settings.rounds + 1, len(zeta)))
    for i, one in enumerate(zeta):
        log_r = smoothing.log_prob(one, torch.from_numpy(every)).sum(1).numpy()
        log_p = every[:, :d] @ a + every[:, d:] @ b + ((every[:, :d] @ w) * every[:, d:]).sum(1) + log_r
        log_p -= np.logaddexp.reduce(log_p)
        tilt = smoothing.log_ratio(one).numpy()
        m = np.full(d + k, 0.5)
        for count in range(settings.rounds + 1):
            if count:
                m[d:] = [sigmoid(b[j] + tilt[d + j] + m[:d] @ w[:, j]) for j in range(k)]
                m[:d] = [sigmoid(a[j] + tilt[j] + w[j] @ m[d:]) for j in range(d)]
            mass = np.where(every > 0.5, m, 1 - m).prod(1)
            found[count, i] = (mass * (np.log(np.maximum(mass, 1e-300)) - log_p)).sum()
    return found


@pytest.mark.parametrize(("smoothing", "beta"), SMOOTHINGS)
def test_divergence_is_its_definition_over_every_z(smoothing, beta):
    model, data = machine(4, 3), dataset(12, 4)
    settings = mean_field_divergence.Settings(smoothing=smoothing, beta=beta, rounds=4)
    found = mean_field_divergence.estimate(model, data, settings, bench())
    zeta = relaxed_machine(model, data.test.all(), settings, bench().generator).draw(bench().generator)
    expected = by_definition(model, zeta, settings)
    np.testing.assert_allclose(found.arrays["divergence"], expected, atol=1e-9, rtol=1e-7)
    last, first = found.numbers
    np.testing.assert_array_equal(last.per_example, found.arrays["divergence"][-1])
    np.testing.assert_array_equal(first.per_example, found.arrays["divergence"][1])
    assert last.estimator_se == 0
    assert expected[0].mean() > expected[1].mean() > expected[-1].mean() > 1e-4


def test_annealing_agrees_with_enumeration():
    model, data = machine(8, 6, coupling=1.5), dataset(30, 8)
    settings = {"smoothing": "power_function", "beta": 4.0, "rounds": 5}
    exact = divergence(model, data, **settings).numbers[0]
    found = divergence(model, data, **settings, log_z="annealing", temperatures=30, chains=200).numbers[0]
    # Equal zeta from equal seeds; beyond 5 standard errors in 1.7 million seeds.
    assert abs(found.value - exact.value) < 5 * found.estimator_se
    assert 0 < found.estimator_se < 0.02 < exact.value


def test_uncoupled_units_are_exact_after_one_round():
    model, data = machine(5, 4, coupling=0.0), dataset(10, 5)
    for log_z in ("enumeration", "annealing"):
        found = divergence(model, data, rounds=2, log_z=log_z, temperatures=5, chains=4)
        assert np.abs(found.arrays["divergence"][1:]).max() < 1e-9
        assert found.arrays["divergence"][0].min() > 0.1
        assert found.numbers[0].estimator_se < 1e-9


def test_sharper_smoothing_leaves_less_divergence():
    model, data = machine(8, 6), dataset(200, 8)
    blunt, sharp = (divergence(model, data, beta=beta).numbers[0].value for beta in (3.0, 16.0))
    assert sharp < blunt / 2


def test_posterior_is_one_pass_up_and_down():
    model, data = machine(3, 2), dataset(4, 3)
    logits = relaxed_machine(model, data.test.all(), RelaxedSettings(), bench().generator).logits
    w, a, b = model.weights.tolist(), model.visible_bias.tolist(), model.hidden_bias.tolist()
    for x, found in zip(data.test.x.tolist(), logits.tolist()):
        up = [b[j] + sum(x[i] * w[i][j] for i in range(3)) for j in range(2)]
        down = [a[i] + sum(w[i][j] * sigmoid(up[j]) for j in range(2)) for i in range(3)]
        assert found == pytest.approx(down + up, rel=1e-5)


def test_posterior_of_an_autoencoder_is_its_encoder():
    model, x = autoencoder(5, 4), dataset(6, 5).test.all()
    logits = relaxed_machine(model, x, RelaxedSettings(), bench().generator).logits
    names = (f"encoder0.0.{name}" for name in ("weight", "bias"))
    weight, bias = (model.parameters[name] for name in names)
    torch.testing.assert_close(logits, ((x - 0.4) @ weight.T + bias).double(), rtol=1e-5, atol=1e-6)


def test_later_groups_are_given_a_draw_of_earlier_ones():
    model, x = autoencoder(5, 3, groups=2, hidden=[4]), dataset(4, 5).test.all()
    logits = model.posterior_log_odds(x, bench().generator)
    again = torch.Generator().manual_seed(3)
    first = draw(torch.sigmoid(logits[:, :3]), again)
    second = model.networks.apply("encoder1", [x - 0.4, first])
    torch.testing.assert_close(logits[:, 3:], second)


def quadrature(nodes: int, q: float) -> tuple[Tensor, Tensor]:
    """rho on either side of 1 - q, dense there and at the ends, and its lengths."""
    t = torch.linspace(-30, 30, nodes, dtype=torch.float64)
    inside = torch.sigmoid(t)
    length = inside * torch.sigmoid(-t) * (t[1] - t[0])
    rho = torch.cat([(1 - q) * inside, (1 - q) + q * inside]).clamp(max=1 - 1e-15)
    return rho, torch.cat([(1 - q) * length, q * length])


@pytest.mark.parametrize("with_decoder", [False, True])
@pytest.mark.parametrize(("smoothing", "beta"), SMOOTHINGS)
def test_gradient_variance_is_that_of_quadrature_and_differences(smoothing, beta, with_decoder):
    """Two units: both zeta by quadrature over rho, d L / d logit by central differences of L at fixed rho.

    Mean field is run to its fixed point, where the gradient that stops at the means is that of the value.
    """
    model = autoencoder(1, 2, hidden=[3], seed=2) if with_decoder else machine(1, 1, coupling=1.5)
    x = np.zeros((50, 1), dtype=np.float32)
    data = Dataset("made-up", "made-up-1", "binary", (1,), {"train": Split(x), "test": Split(x)}, {})
    settings = logit_gradient.Settings(smoothing=smoothing, beta=beta, rounds=30, draws=300)
    example = data.test.all()[:1]
    relaxed = relaxed_machine(model, example, settings, bench().generator)
    logits, prior = relaxed.logits[0], relaxed.prior
    sides = [quadrature(80, torch.sigmoid(one).item()) for one in logits]
    rho = torch.cartesian_prod(*[places for places, _ in sides])
    weight = torch.cartesian_prod(*[lengths for _, lengths in sides]).prod(1)
    assert weight.sum().item() == pytest.approx(1.0, abs=1e-6)

    def bound(logits: Tensor) -> Tensor:
        with torch.no_grad():
            zeta = prior.smoothing.icdf(rho, logits.expand(rho.shape))
            of_x = model.log_prob_x_given_units(example.expand(len(zeta), -1), zeta)
            return of_x + prior.log_unnormalised(zeta) - prior.smoothing.mixture_log_prob(zeta, logits).sum(1)

    variances = []
    for unit in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[unit] = 1e-5
        slope = (bound(logits + step) - bound(logits - step)) / 2e-5
        mean = (weight * slope).sum()
        variances.append((weight * (slope - mean).square()).sum().item())
    found = logit_gradient.estimate(model, data, settings, bench()).numbers[0]
    # Beyond 4.5 standard errors in 150,000 seeds: 300 draws of 50 equal examples.
    assert abs(found.value - np.mean(variances)) < 4.5 * found.estimator_se
    assert found.estimator_se < 0.1 * found.value


def test_variance_is_unbiased_over_few_draws():
    model, data = machine(4, 3), dataset(6, 4)
    settings = logit_gradient.Settings(draws=7)
    found = logit_gradient.estimate(model, data, settings, bench()).numbers[0]
    x, work = data.test.all(), bench()
    relaxed = relaxed_machine(model, x, settings, work.generator)
    each = np.stack([logit_gradient.gradient(model, x, relaxed, work.generator).numpy() for _ in range(7)])
    np.testing.assert_allclose(found.per_example, each.var(0, ddof=1).mean(1))


def test_refusals_say_what_to_write():
    data = dataset(5, 3)
    with pytest.raises(CannotBeDone, match="at most 20"):
        divergence(machine(30, 25), dataset(2, 30))
    with pytest.raises(ValidationError, match="beta above 1"):
        mean_field_divergence.Settings(smoothing="power_function", beta=1.0)
    broken = machine(3, 2)
    broken.weights[0, 0] = math.nan
    with pytest.raises(CannotBeDone, match="not finite"):
        divergence(broken, data)
    with pytest.raises(CannotBeDone, match="not finite"):
        logit_gradient.estimate(broken, data, logit_gradient.Settings(draws=2), bench())
