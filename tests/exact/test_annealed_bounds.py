"""Importance-weighted bounds with an annealed log Z, of a discrete autoencoder whose truth is enumerated."""

import math

import pytest
import test_dvae as discrete
import torch

from dgmbench.errors import CannotBeDone
from dgmbench.estimators import boltzmann_bound, boltzmann_bound_bracket, importance_weighted_ais
from dgmbench.estimators.base import Workbench

DATA = discrete.dataset(discrete.blobs(120, 6))
MODEL = discrete.network("dvae#/power", scale=0.5, groups=2, latent=3)
ANNEALING = {"temperatures": 100, "chains": 500}


def numbers(module, model=MODEL, **settings):
    bench = Workbench(torch.Generator().manual_seed(3))
    found = module.estimate(model, DATA, module.Settings(**ANNEALING, **settings), bench)
    assert all(number.metric in module.METRICS for number in found.numbers)
    return {number.metric: number for number in found.numbers}


def truth() -> tuple[float, float]:
    """log Z and the mean log p(x) of the test examples."""
    return discrete.log_z(MODEL.machine).item(), discrete.log_prob(MODEL, DATA.test.all()).mean().item()


def test_the_bound_is_the_truth_within_its_error():
    found = numbers(importance_weighted_ais, k=2000)
    log_z, log_likelihood = found["log_z"], found["log_likelihood"]
    exact_log_z, exact = truth()
    # Beyond 5 standard errors in 1.7 million, of either.
    assert abs(log_z.value - exact_log_z) < 5 * log_z.estimator_se
    assert abs(log_likelihood.value - exact) < 5 * log_likelihood.estimator_se
    assert log_likelihood.estimator_se > log_z.estimator_se > 0
    assert log_likelihood.estimator_se < 0.05
    assert log_z.converged
    assert log_likelihood.converged
    assert log_likelihood.per_example.shape == (len(DATA.test),)


def test_it_rises_with_k_from_the_elbo_and_says_what_has_not_converged():
    one, few, many = (numbers(importance_weighted_ais, k=k)["log_likelihood"] for k in (1, 20, 1000))
    assert one.value < few.value < many.value
    assert one.estimator_se is None
    assert one.converged is None
    assert not few.converged
    # k = 1 is the ELBO, up to the draws: 40 examples of a spread of 1.5 nats.
    elbo = numbers(boltzmann_bound, k=1000)["bound"]
    assert abs(one.value - elbo.value) < 5 * 1.5 / math.sqrt(len(DATA.test))
    strict = numbers(importance_weighted_ais, k=1000, tolerance=1e-6)["log_likelihood"]
    assert strict.converged is False
    assert "standard error" in strict.evidence["ais_not_converged_because"]


def test_chains_over_latent_states_give_the_same_bracket_as_exact_states():
    found = numbers(boltzmann_bound_bracket, k=20, target_states="gibbs", target_sweeps=100)
    log_z = found["log_z"]
    # Beyond 5 standard errors in 1.7 million.
    assert abs(log_z.value - truth()[0]) < 5 * log_z.estimator_se
    assert log_z.evidence["target_states"] == "gibbs"
    assert log_z.converged


def test_bounds_on_log_z_stand_on_either_side():
    found = numbers(boltzmann_bound_bracket, k=1000)
    exact_log_z, exact = truth()
    assert list(found) == ["log_z_lower", "log_z_upper", "log_z", "bound", "log_likelihood"]
    for name in ("log_z_lower", "log_z_upper", "log_z"):
        assert abs(found[name].value - exact_log_z) < 5 * found[name].estimator_se
    assert found["log_z"].value == (found["log_z_lower"].value + found["log_z_upper"].value) / 2
    assert abs(found["log_likelihood"].value - exact) < 5 * found["log_likelihood"].estimator_se
    assert found["bound"].value < exact
    large = discrete.network("dvae#/power", scale=0.1, latent=50)
    with pytest.raises(CannotBeDone, match="target_states: gibbs or tempering"):
        numbers(boltzmann_bound_bracket, large, k=2)
