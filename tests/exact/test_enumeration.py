"""Enumerated partition functions against brute force over all (v, h), on either side."""

import itertools

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import enumeration
from dgmbench.estimators.base import Workbench
from dgmbench.models.boltzmann import rbm


def machine(visible: int, hidden: int, scale: float = 1.0) -> rbm.Model:
    generator = torch.Generator().manual_seed(100 * visible + hidden)

    def normal(*shape):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = rbm.Model(rbm.Spec(hidden=hidden), visible)
    state = {"weights": normal(visible, hidden), "visible_bias": normal(visible), "hidden_bias": normal(hidden)}
    model.load_state({**state, "base_bias": normal(visible)})
    return model


def brute_force_log_z(model: rbm.Model) -> float:
    """log of the sum of exp(v.a + h.b + v W h) over every v and every h, term by term."""
    visible, hidden = model.weights.shape
    v = torch.tensor(list(itertools.product((0.0, 1.0), repeat=visible)), dtype=torch.float64)
    h = torch.tensor(list(itertools.product((0.0, 1.0), repeat=hidden)), dtype=torch.float64)
    negative_energy = (v @ model.visible_bias)[:, None] + h @ model.hidden_bias + v @ model.weights @ h.T
    return torch.logsumexp(negative_energy.flatten(), 0).item()


@pytest.mark.parametrize(("visible", "hidden"), [(7, 3), (3, 7), (5, 5), (1, 1)])
@pytest.mark.parametrize("block_states", [3, 1024])
def test_log_z_is_the_sum_over_both_sides(visible, hidden, block_states):
    model = machine(visible, hidden, scale=1.5)
    log_z = enumeration.log_partition(model.enumeration(), block_states)
    assert model.enumeration().bits == min(visible, hidden)
    assert log_z == pytest.approx(brute_force_log_z(model), abs=1e-12)


def test_probabilities_sum_to_one_and_reach_the_metrics():
    model = machine(6, 4)
    every = np.array(list(itertools.product((0, 1), repeat=6)), dtype=np.uint8)
    data = Dataset("all", "all", "binary", (6,), {"test": Split(every)}, {})
    bench = Workbench(torch.Generator().manual_seed(0))
    log_z, log_likelihood = enumeration.estimate(model, data, enumeration.Settings(), bench).numbers
    assert log_z.value == pytest.approx(brute_force_log_z(model), abs=1e-12)
    assert np.exp(log_likelihood.per_example).sum() == pytest.approx(1.0, abs=1e-12)
    assert log_likelihood.value == pytest.approx(log_likelihood.per_example.mean())
    assert {log_z.metric, log_likelihood.metric} == set(enumeration.METRICS)
    few = enumeration.estimate(model, data, enumeration.Settings(examples=5), bench).numbers[1]
    assert np.allclose(few.per_example, log_likelihood.per_example[:5])


def test_a_large_machine_is_refused_with_the_reason():
    with pytest.raises(CannotBeDone, match="the smaller side has 21 units; at most 20"):
        rbm.Model(rbm.Spec(hidden=21), 30).enumeration()


def test_large_energies_do_not_overflow():
    model = machine(6, 4, scale=300.0)
    assert enumeration.log_partition(model.enumeration()) == pytest.approx(brute_force_log_z(model), rel=1e-13)
