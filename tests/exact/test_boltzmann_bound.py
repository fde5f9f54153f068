"""Bounds and estimates of log p(x) with log Z, against enumeration of everything."""

import math

import numpy as np
import pytest
import test_dbm as machines
import test_dbn as belief
import torch

from dgmbench.errors import CannotBeDone
from dgmbench.estimators import boltzmann_bound, boltzmann_bound_enumeration
from dgmbench.estimators.base import Workbench
from dgmbench.models.boltzmann import dbm

DATA = machines.dataset(machines.two_modes(60, 4))


def model_and_truth(kind: str):
    """A model, and the exact log p(x) of the test examples."""
    tests, model = (belief, belief.network(4, [3, 4])) if kind == "dbn" else (machines, machines.machine(4, [3, 2]))
    log_prob = torch.log_softmax(tests.marginal(model), 0)
    code = DATA.test.all().long() @ torch.tensor([8, 4, 2, 1])
    return model, log_prob[code].numpy()


def numbers(module, model, **settings):
    bench = Workbench(torch.Generator().manual_seed(3))
    found = module.estimate(model, DATA, module.Settings(**settings), bench)
    assert [number.metric for number in found.numbers] == ["log_z", "bound", "log_likelihood"]
    return found.numbers


@pytest.mark.parametrize("kind", ["dbn", "dbm"])
def test_with_the_exact_partition_function_bound_and_estimate_stand_in_order(kind):
    model, truth = model_and_truth(kind)
    log_z, bound, estimate = numbers(boltzmann_bound_enumeration, model, k=2000)
    marginal = (belief if kind == "dbn" else machines).marginal(model)
    assert log_z.value == pytest.approx(torch.logsumexp(marginal, 0).item(), abs=1e-9)
    assert bound.value < truth.mean() - 5 * bound.estimator_se
    # 60 examples of 16 kinds with 2,000 draws each: the estimate's own error is told right to within five of it.
    np.testing.assert_allclose(estimate.value, truth.mean(), atol=5 * estimate.estimator_se)
    assert estimate.estimator_se < 0.05
    assert bound.value < estimate.value
    assert (bound.estimator_se == 0) == (kind == "dbm")


@pytest.mark.parametrize("kind", ["dbn", "dbm"])
def test_with_annealed_log_z_the_estimate_is_the_truth_within_its_error(kind):
    model, truth = model_and_truth(kind)
    log_z, _, estimate = numbers(boltzmann_bound, model, k=500, temperatures=200, chains=1000)
    assert estimate.estimator_se >= log_z.estimator_se > 0
    assert log_z.estimator_se < 0.05
    assert abs(estimate.value - truth.mean()) < 5 * estimate.estimator_se
    assert log_z.converged


@pytest.mark.parametrize("module", [boltzmann_bound, boltzmann_bound_enumeration])
def test_an_estimate_that_more_draws_would_raise_has_not_converged(module):
    """The log of a mean of few weights is too low, and what it gains from half as many says so."""
    model = belief.network(4, [3, 4], scale=1.5)
    truth = torch.log_softmax(belief.marginal(model), 0)[DATA.test.all().long() @ torch.tensor([8, 4, 2, 1])].numpy()
    annealing = {"temperatures": 1000, "chains": 500} if module is boltzmann_bound else {}
    for k, enough in ((2, False), (4000, True)):
        log_z, bound, estimate = numbers(module, model, k=k, **annealing)
        assert log_z.converged is not False
        assert bound.converged == log_z.converged
        assert estimate.converged == enough
        assert (estimate.evidence["gain_of_doubling"] > 0.1) != enough
        assert ("too few draws" in (estimate.evidence["not_converged_because"] or "")) != enough
        assert (estimate.value < truth.mean() - 0.2) != enough


def test_a_single_layer_needs_no_draws():
    model = belief.network(4, [3])
    truth = torch.log_softmax(belief.marginal(model), 0)[DATA.test.all().long() @ torch.tensor([8, 4, 2, 1])].numpy()
    _, bound, estimate = numbers(boltzmann_bound_enumeration, model, k=2)
    np.testing.assert_allclose(bound.per_example, truth, atol=1e-9)
    np.testing.assert_allclose(estimate.per_example, truth, atol=1e-9)
    assert bound.estimator_se == pytest.approx(0, abs=1e-9)


def test_rows_per_call_changes_no_more_than_which_numbers_are_drawn():
    model, _ = model_and_truth("dbm")
    whole, parts = (numbers(boltzmann_bound_enumeration, model, k=200, rows_per_call=rows)[2] for rows in (10**6, 450))
    assert abs(whole.value - parts.value) < 5 * math.hypot(whole.estimator_se, parts.estimator_se)
    assert whole.value != parts.value


def test_draws_that_q_as_written_cannot_give_are_left_out_and_counted(monkeypatch):
    """Infinite weights: few of them change the estimate by their share alone, many are refused."""
    model, _ = model_and_truth("dbm")
    plain, drawn = numbers(boltzmann_bound_enumeration, model, k=2000)[2], machines.dbm.Model.log_weights_unnormalised

    def rounded(self, x, k, generator):
        weights = drawn(self, x, k, generator)
        weights[:: 1000 // share] = math.inf
        return weights

    monkeypatch.setattr(machines.dbm.Model, "log_weights_unnormalised", rounded)
    share = 1
    _, bound, estimate = numbers(boltzmann_bound_enumeration, model, k=2000)
    assert estimate.evidence["draws_left_out"] == bound.evidence["draws_left_out"] == 2 * len(DATA.test)
    assert estimate.value == pytest.approx(plain.value, abs=0.005)
    assert plain.evidence["draws_left_out"] == 0
    share = 2
    with pytest.raises(CannotBeDone, match="importance weights are not finite"):
        numbers(boltzmann_bound_enumeration, model, k=2000)


def test_large_machines_are_refused_by_enumeration_and_broken_ones_by_both():
    bench = Workbench(torch.Generator().manual_seed(3))
    settings = boltzmann_bound_enumeration.Settings()
    large = dbm.Model(dbm.Spec(hidden=[30, 30]), 4)
    with pytest.raises(CannotBeDone, match="can be enumerated"):
        boltzmann_bound_enumeration.estimate(large, DATA, settings, bench)
    broken = machines.machine(4, [3, 2])
    broken.parameters["bias.0"].fill_(math.inf)
    with pytest.raises(CannotBeDone, match="not finite"):
        boltzmann_bound_enumeration.estimate(broken, DATA, settings, bench)
