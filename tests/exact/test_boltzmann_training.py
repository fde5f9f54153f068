"""Training of restricted Boltzmann machines: penalties by finite differences, schedules, resuming, monitors."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.boltzmann import _training, gaussian_rbm, rbm
from dgmbench.training.session import Session

BINARY = (np.random.default_rng(4).random((120, 6)) < np.linspace(0.2, 0.8, 6)).astype(np.uint8)
REAL = np.random.default_rng(5).normal(size=(120, 6)).astype(np.float32) * 3 + 1
MODELS = {"rbm": (rbm, "binary", BINARY), "gaussian_rbm": (gaussian_rbm, "real", REAL)}


def dataset(name: str) -> Dataset:
    _, values, x = MODELS[name]
    splits = {"train": Split(x[:80]), "validation": Split(x[80:100]), "test": Split(x[100:])}
    return Dataset("small", "small", values, (6,), splits, {})


def fit(name: str, session: Session | None = None, **spec):
    module = MODELS[name][0]
    settings = {"hidden": 4, "epochs": 6, "batch_size": 20, "chains": 10, "learning_rate": 0.05, **spec}
    model = module.Model(module.Spec(**settings), 6)
    model.fit(dataset(name), session or Session(torch.Generator().manual_seed(1)))
    return model


def cross_entropy(hidden_input: torch.Tensor, target: float) -> torch.Tensor:
    q = torch.sigmoid(hidden_input).mean(0)
    return -(target * q.log() + (1 - target) * (1 - q).log()).sum()


@pytest.mark.parametrize("target", [0.05, 0.4])
def test_the_slope_of_the_sparsity_penalty_is_that_of_finite_differences(target):
    x = 2 * torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slope, step = _training.sparsity_slope(torch.sigmoid(x), target), 1e-6
    for n, j in itertools.product(range(7), range(3)):
        up, down = x.clone(), x.clone()
        up[n, j] += step
        down[n, j] -= step
        difference = (cross_entropy(up, target) - cross_entropy(down, target)) / (2 * step)
        assert abs(slope[n, j] - difference) < 1e-8


@pytest.mark.parametrize("name", MODELS)
def test_the_penalty_reaches_the_parameters_by_the_chain_rule(name):
    """accumulate(..., slope) is d/dtheta sum slope_rj x_rj: the penalty's gradient, by automatic differentiation."""
    module = MODELS[name][0]
    spec = {"variance": "learned"} if name == "gaussian_rbm" else {}
    model = module.Model(module.Spec(hidden=3, **spec), 6)
    generator = torch.Generator().manual_seed(2)
    state = {n: torch.randn(v.shape, generator=generator, dtype=torch.float64) for n, v in model.state().items()}
    leaves = {n: v.clone().requires_grad_(True) for n, v in state.items()}
    x = torch.from_numpy(MODELS[name][2][:20]).double()
    model.load_state(leaves)
    cross_entropy(model.hidden_input(x), 0.1).backward()
    model.load_state(state)
    velocity = {n: torch.zeros_like(v) for n, v in model.parameters().items()}
    slope = _training.sparsity_slope(torch.sigmoid(model.hidden_input(x)), 0.1)
    model.accumulate(velocity, 0.0, x, slope, torch.zeros(20, dtype=torch.float64))
    for n, direction in velocity.items():
        gradient = torch.zeros_like(direction) if leaves[n].grad is None else leaves[n].grad
        torch.testing.assert_close(direction, gradient, rtol=1e-10, atol=1e-10)


def test_units_that_are_never_on_get_no_slope_that_is_not_finite():
    mean = torch.zeros(5, 2)
    mean[:, 1] = 1.0
    assert torch.equal(_training.sparsity_slope(mean, 0.1), torch.zeros(5, 2))


def test_sparsity_draws_the_mean_activity_to_its_target():
    def activity(**spec):
        model = fit("rbm", epochs=100, **spec)
        return torch.sigmoid(model.hidden_input(dataset("rbm").train.all())).mean().item()

    assert activity() > 0.4
    assert abs(activity(sparsity_cost=3.0, sparsity_target=0.1) - 0.1) < 0.05


def test_weight_decay_shrinks_the_weights():
    free, decayed = (fit("rbm", epochs=60, weight_decay=decay).weights for decay in (0.0, 0.3))
    assert decayed.norm() < 0.5 * free.norm()


def test_one_update_is_the_one_that_the_equations_say():
    """CD-1 with one batch: momentum is of no effect at the first update, the learning rate is whole."""
    x = torch.from_numpy(BINARY[:80]).float()
    spec = {"training": "cd", "epochs": 1, "batch_size": 80, "learning_rate": 0.1, "weight_decay": 0.2}
    session = Session(torch.Generator().manual_seed(1))
    model = fit("rbm", session, momentum=0.9, **spec)
    start, generator = rbm.Model(model.spec, 6), torch.Generator().manual_seed(1)
    start._initialise(dataset("rbm"), Session(generator))
    start.first_chains(80, generator)
    shuffled = x[torch.randperm(80, generator=generator)]
    mean = torch.sigmoid(start.hidden_input(shuffled))
    reached, hidden = start.gibbs(mean, 1, generator)
    again = torch.sigmoid(start.hidden_input(reached))
    gradient = (shuffled.T @ mean - reached.T @ again) / 80 - 0.2 * start.weights
    torch.testing.assert_close(model.weights, start.weights + 0.1 * gradient)
    torch.testing.assert_close(model.hidden_bias, start.hidden_bias + 0.1 * (mean - again).mean(0))
    torch.testing.assert_close(model.visible_bias, start.visible_bias + 0.1 * (shuffled - reached).mean(0))
    row, validation = session.history[-1], torch.from_numpy(BINARY[80:100])
    energy = -model.log_unnormalised(shuffled).mean()
    assert row["free_energy_gap"] == pytest.approx(float(energy + model.log_unnormalised(reached).mean()), abs=1e-5)
    gap = -model.log_unnormalised(validation).mean() + model.log_unnormalised(shuffled[:20]).mean()
    assert row["validation_free_energy_gap"] == pytest.approx(float(gap), abs=1e-5)
    flips = (hidden - torch.sigmoid(model.hidden_input(reached))).abs().mean()
    assert row["change_rate"] == pytest.approx(float(flips), abs=1e-5)
    assert row["hidden_activity"] == pytest.approx(float(mean.mean()), abs=1e-6)
    error = F.binary_cross_entropy(
        torch.sigmoid(model.visible_input(torch.sigmoid(model.hidden_input(shuffled)))), shuffled
    )
    assert row["reconstruction_error"] == pytest.approx(6 * float(error), rel=1e-4)


def in_centred_coordinates(weights, visible_bias, hidden_bias, mu, lam, sign: int):
    """From biases of v and h to those of v - mu and h - lambda (sign 1), or back (sign -1)."""
    return weights, visible_bias + sign * weights @ lam, hidden_bias + sign * mu @ weights


def test_the_centred_direction_is_the_gradient_in_centred_coordinates():
    """Of the enumerated log-likelihood, by automatic differentiation; carried back to the machine's own parameters."""
    drawn = torch.Generator().manual_seed(3)
    weights, a, b = (torch.randn(*s, generator=drawn, dtype=torch.float64) for s in ((6, 3), (6,), (3,)))
    mu, lam = (torch.rand(m, generator=drawn, dtype=torch.float64) for m in (6, 3))
    x, model = torch.from_numpy(BINARY[:20]).double(), rbm.Model(rbm.Spec(hidden=3), 6)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)

    def gradient(leaves, own) -> list[torch.Tensor]:
        names = ("weights", "visible_bias", "hidden_bias")
        model.load_state({**dict(zip(names, own, strict=True)), "base_bias": a})
        log_prob = model.log_unnormalised(x).mean() - torch.logsumexp(model.log_unnormalised(states), 0)
        return list(torch.autograd.grad(log_prob, leaves))

    centred = in_centred_coordinates(weights, a, b, mu, lam, 1)
    leaves = [value.clone().requires_grad_(True) for value in centred]
    uphill = gradient(leaves, in_centred_coordinates(*leaves, mu, lam, -1))
    carried_back = in_centred_coordinates(*uphill, mu, lam, -1)
    own = [value.clone().requires_grad_(True) for value in (weights, a, b)]
    ordinary = gradient(own, own)
    found = _training.centred(dict(zip(("W", "a", "b"), ordinary, strict=True)), mu, lam)
    for direction, expected in zip(found.values(), carried_back, strict=True):
        torch.testing.assert_close(direction, expected, rtol=0, atol=1e-12)
    assert sum(float((d * g).sum()) for d, g in zip(found.values(), ordinary, strict=True)) > 0
    assert not torch.allclose(found["a"], ordinary[1])


def test_centres_are_running_means_of_the_data_that_the_first_minibatch_begins():
    model = fit("rbm", epochs=1)
    x = torch.from_numpy(BINARY[:40]).float()
    centres = _training.centres_of(model.parameters())
    chains = x[:10].clone()
    for rows, share in ((slice(0, 20), 1.0), (slice(20, 40), 0.25)):
        before = {name: value.clone() for name, value in model.parameters().items()}
        mean = torch.sigmoid(model.hidden_input(x[rows])).mean(0)
        now = {"visible": x[rows].mean(0), "hidden": mean}
        expected = {name: (1 - share) * value + share * now[name] for name, value in centres.items()}
        velocity = {name: torch.zeros_like(value) for name, value in before.items()}
        rule = _training.Rule(1, 0.1, centring=share)
        _training.update(model, velocity, x[rows], chains, rule, torch.Generator().manual_seed(4), centres)
        torch.testing.assert_close(centres, expected)
        moved = _training.centred(velocity, *expected.values())
        for name, value in model.parameters().items():
            torch.testing.assert_close(value, before[name] + 0.1 * moved[name])
    spec = rbm.Spec(centred=True)
    assert [_training.rule_at(spec, step, 9, 3, True).centring for step in (0, 1, 8)] == [1.0, 0.01, 0.01]
    assert _training.rule_at(spec, 0, 9, 3, False).centring == 0


def test_the_number_of_sweeps_grows_and_momentum_runs_from_its_start_to_its_end():
    growing = rbm.Spec(training="cd_growing", gibbs_steps=2, grow_every=3)
    assert [_training.sweeps_at(growing, epoch) for epoch in range(8)] == [2, 2, 2, 3, 3, 3, 4, 4]
    assert {_training.sweeps_at(rbm.Spec(training=t, gibbs_steps=2), 100) for t in ("cd", "pcd")} == {2}
    moving = rbm.Spec(momentum=0.5, momentum_end=0.9)
    momenta = [_training.momentum_at(moving, step, 5) for step in range(5)]
    assert momenta == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert _training.momentum_at(rbm.Spec(momentum=0.5), 3, 5) == 0.5
    assert _training.momentum_at(moving, 0, 1) == 0.5


class Killed(Exception):
    pass


class KilledAfter(Session):
    """A session that dies in the middle of its step number `last`."""

    last = 0

    def record(self, **values):
        super().record(**values)
        if self.step == self.last:
            raise Killed


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", ["pcd", "cd", "cd_growing"])
def test_a_killed_training_resumes_to_the_same_bits(name, training, tmp_path):
    spec = {
        "training": training,
        "grow_every": 2,
        "gibbs_steps": 2,
        "momentum": 0.5,
        "momentum_end": 0.9,
        "sparsity_cost": 0.1,
        "weight_decay": 0.01,
        **({"variance": "learned"} if name == "gaussian_rbm" else {"centred": True}),
    }
    whole = Session(torch.Generator().manual_seed(1))
    expected = fit(name, whole, **spec).state()
    for last in (1, 3, 4, 23):  # four steps an epoch
        options = {"checkpoint_path": tmp_path / f"{last}", "checkpoint_seconds": 0.0}
        session = KilledAfter(torch.Generator().manual_seed(1), **options)
        session.last = last
        with pytest.raises(Killed):
            fit(name, session, **spec)
        resumed = Session(torch.Generator().manual_seed(1), **options)
        found = fit(name, resumed, **spec).state()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert resumed.history == whole.history


def test_a_dataset_without_validation_split_trains_without_its_monitor():
    data = Dataset("small", "small", "binary", (6,), {"train": Split(BINARY)}, {})
    session = Session(torch.Generator().manual_seed(1))
    rbm.Model(rbm.Spec(hidden=3, epochs=2), 6).fit(data, session)
    assert "validation_free_energy_gap" not in session.history[-1]


@pytest.mark.parametrize(
    "wrong", [{"training": "cd1"}, {"momentum_end": 1.0}, {"sparsity_target": 0.0}, {"grow_every": 0}, {"chains": 0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        rbm.Spec(**wrong)
