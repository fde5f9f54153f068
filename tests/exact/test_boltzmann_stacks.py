"""Training of belief networks and deep Boltzmann machines: what each update is made with, and the joint one by hand."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.boltzmann import dbm, dbn
from dgmbench.training.session import Session

X = (np.random.default_rng(4).random((40, 6)) < np.linspace(0.2, 0.8, 6)).astype(np.uint8)
DATA = Dataset("small", "small", "binary", (6,), {"train": Split(X), "test": Split(X)}, {})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def updates(monkeypatch, module, **spec) -> list[dict]:
    """What each layer was updated with, in the order of the updates, in epochs of four minibatches."""
    found, update = [], module.update

    def noted(machine, velocity, data, chains, rule, drawn, centres=None):
        before = {name: value.clone() for name, value in machine.parameters().items()}
        moved = update(machine, velocity, data, chains, rule, drawn, centres)
        change = {name: value - before[name] for name, value in machine.parameters().items()}
        found.append({"machine": machine, "data": data, "chains": chains, "rule": rule, "change": change})
        return moved

    monkeypatch.setattr(module, "update", noted)
    module.Model(module.Spec(batch_size=10, chains=5, sample_sweeps=3, **spec), 6).fit(DATA, Session(generator(1)))
    return found


@pytest.mark.parametrize("training", ["pcd", "cd", "cd_growing"])
def test_every_layer_of_a_belief_network_is_trained_as_a_machine_by_itself(monkeypatch, training):
    spec = {"hidden": [4, 6], "epochs": 2, "training": training, "grow_every": 1, "gibbs_steps": 2}
    spec |= {
        "learning_rate": 0.2,
        "momentum": 0.5,
        "momentum_end": 0.9,
        "centred": True,
        "weight_decay": 0.1,
        "sparsity_cost": 0.3,
    }
    found = updates(monkeypatch, dbn, **spec)
    assert [call["machine"].weights.shape for call in found] == [(6, 4)] * 8 + [(4, 6)] * 8
    for number, call in enumerate(found):
        rule, done = call["rule"], number % 8
        assert rule.rate == pytest.approx(0.2 * (1 - done / 8))
        assert rule.momentum == pytest.approx(0.5 + 0.4 * done / 7)
        assert rule.sweeps == 2 + (training == "cd_growing" and done > 3)
        assert rule.centring == (1.0 if done == 0 else 0.01)
        assert (rule.weight_decay, rule.sparsity_cost, rule.sparsity_target) == (0.1, 0.3, 0.1)
        assert (call["chains"] is not None) == (training == "pcd")
        assert set(call["data"].unique().tolist()) <= {0.0, 1.0}
        assert all(change.any() for change in call["change"].values())


def test_the_top_moves_once_in_every_update_of_the_up_down_algorithm(monkeypatch):
    spec = {"hidden": [4, 6], "epochs": 2, "up_down_epochs": 2, "up_down_learning_rate": 0.3, "up_down_gibbs_steps": 7}
    found = updates(monkeypatch, dbn, **spec)[16:]
    assert [call["rule"].rate for call in found] == pytest.approx([0.3 * (1 - step / 8) for step in range(8)])
    for call in found:
        assert call["machine"].weights.shape == (4, 6)
        assert call["chains"] is None
        assert (call["rule"].sweeps, call["rule"].momentum, call["rule"].weight_decay) == (7, 0.0, 0.0)


def test_pre_training_gives_every_copy_of_a_unit_its_value(monkeypatch):
    spec = {"hidden": [4, 3, 2], "pretraining_epochs": 2, "epochs": 1, "pretraining_gibbs_steps": 3}
    found = updates(monkeypatch, dbm, pretraining_learning_rate=0.2, momentum=0.7, weight_decay=0.1, **spec)
    assert [call["machine"].weights.shape for call in found] == [(6, 4)] * 8 + [(4, 3)] * 8 + [(3, 2)] * 8
    for number, call in enumerate(found):
        rule, machine = call["rule"], call["machine"]
        assert rule.rate == pytest.approx(0.2 * (1 - number % 8 / 8))
        assert (rule.sweeps, rule.momentum, rule.weight_decay) == (3, 0.7, 0.1)
        assert call["chains"] is None
        assert set(call["data"].unique().tolist()) <= {0.0, float(machine.copies_below)}
        assert call["data"].max() == machine.copies_below
        assert machine.copies_below == (1 if number >= 16 else 2)
        assert all(change.any() for change in call["change"].values())


@pytest.mark.parametrize("hidden", [[4, 3], [4, 3, 2]])
def test_the_joint_update_is_the_one_that_the_equations_say(hidden):
    """Velocity, penalty and step size; chains go on from where they were."""
    spec = dbm.Spec(hidden=hidden, chains=5, gibbs_steps=3, momentum=0.6, weight_decay=0.1)
    model, drawn = dbm.Model(spec, 6), generator(2)
    shapes = {name: value.shape for name, value in model.state().items()}
    model.load_state({n: torch.randn(s, generator=drawn, dtype=torch.float64) for n, s in shapes.items()})
    before = {name: value.clone() for name, value in model.state().items()}
    x, widths = torch.from_numpy(X[:10]).double(), [6, *hidden]
    chains = {f"{i}": torch.randint(2, (5, m), generator=drawn).double() for i, m in enumerate(widths)}
    velocity = {name: torch.full_like(value, 0.5) for name, value in before.items() if name != "base"}

    means, _ = model.mean_field(x, spec.training_mean_field_iterations)
    reached = model.gibbs(list(chains.values()), 3, generator(3))
    model_side = [state.clone() for state in reached]
    for level in range(1, len(widths), 2):
        model_side[level] = torch.sigmoid(model.input(level, reached))

    def mean_product(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("ni,nj->ij", a, b) / len(a)

    expected = {f"bias.{i}": means[i].mean(0) - model_side[i].mean(0) for i in range(len(widths))}
    for i, (below, above) in enumerate(itertools.pairwise(range(len(widths))), 1):
        gradient = mean_product(means[below], means[above]) - mean_product(model_side[below], model_side[above])
        expected[f"weights.{i}"] = gradient - 0.1 * before[f"weights.{i}"]
    model._update(x, chains, velocity, 0.2, generator(3), {}, 0.0)
    for name, direction in expected.items():
        torch.testing.assert_close(velocity[name], 0.3 + direction)
        torch.testing.assert_close(model.parameters[name], before[name] + 0.2 * (0.3 + direction))
    assert torch.equal(model.parameters["base"], before["base"])
    for chain, state in zip(chains.values(), reached, strict=True):
        assert torch.equal(chain, state)


def test_the_step_size_of_all_layers_falls_to_zero(monkeypatch):
    rates: list[float] = []
    monkeypatch.setattr(
        dbm.Model, "_update", lambda self, x, chains, velocity, rate, *others: rates.append(rate) or ([x] * 2, 1)
    )
    monkeypatch.setattr(dbm.Model, "_reconstruction_log_likelihood", lambda self, x, mean: 0.0)
    spec = dbm.Spec(hidden=[4, 3], pretraining_epochs=1, epochs=2, batch_size=10, learning_rate=0.1)
    dbm.Model(spec, 6).fit(DATA, Session(generator()))
    assert rates == pytest.approx([0.1 * (1 - step / 8) for step in range(8)])
