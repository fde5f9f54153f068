"""Annealed importance sampling against enumeration, and its own account of its error."""

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.estimators import ais
from dgmbench.estimators.base import Workbench
from dgmbench.estimators.enumeration import log_partition
from dgmbench.models.boltzmann import rbm


def dataset(d: int) -> Dataset:
    x = (np.random.default_rng(0).random((100, d)) < np.linspace(0.1, 0.9, d)).astype(np.uint8)
    return Dataset("small", "small", "binary", (d,), {"train": Split(x), "test": Split(x)}, {})


def machine(visible: int, hidden: int, scale: float) -> rbm.Model:
    generator = torch.Generator().manual_seed(3)
    model = rbm.Model(rbm.Spec(hidden=hidden), visible)
    state = {
        "weights": scale * torch.randn(visible, hidden, generator=generator, dtype=torch.float64),
        "visible_bias": torch.randn(visible, generator=generator, dtype=torch.float64),
        "hidden_bias": torch.randn(hidden, generator=generator, dtype=torch.float64),
    }
    model.load_state({**state, "base_bias": state["visible_bias"]})
    return model


def bench(seed: int = 0) -> Workbench:
    return Workbench(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperatures", [2, 50, 1000])
def test_exact_without_weights(temperatures):
    """With W = 0 and the base rates as visible biases every chain has the same weight, whatever it visits."""
    data, model = dataset(8), machine(8, 5, scale=0.0)
    model.visible_bias = rbm.base_rate_log_odds(data)
    settings = ais.Settings(temperatures=temperatures, chains=20)
    log_z, log_likelihood = ais.estimate(model, data, settings, bench()).numbers
    exact = log_partition(model.enumeration())
    assert log_z.value == pytest.approx(exact, abs=1e-10)
    assert log_z.estimator_se < 1e-10
    assert log_z.converged
    exact_mean = (model.log_unnormalised(data.test.all()) - exact).mean().item()
    assert log_likelihood.value == pytest.approx(exact_mean, abs=1e-10)


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
@pytest.mark.parametrize("transitions", [1, 2])
def test_strong_machine_within_its_stated_error(schedule, transitions):
    data, model = dataset(10), machine(10, 6, scale=2.0)
    settings = ais.Settings(schedule=schedule, temperatures=1000, chains=400, transitions=transitions)
    estimates = ais.estimate(model, data, settings, bench(11))
    log_z, log_likelihood = estimates.numbers
    exact = log_partition(model.enumeration())
    # Nearly normal at this effective sample size: beyond 4 standard errors in 16,000; 4 cases, so a false
    # alarm in 4,000 seeds.
    assert abs(log_z.value - exact) < 4 * log_z.estimator_se
    assert 0 < log_z.estimator_se < 0.05
    assert log_z.converged
    assert log_z.evidence["se_jackknife"] == pytest.approx(log_z.estimator_se, rel=0.05)
    shift = exact - log_z.value
    exact_mean = (model.log_unnormalised(data.test.all()) - exact).mean().item()
    assert log_likelihood.value == pytest.approx(exact_mean + shift, abs=1e-9)
    assert estimates.arrays["log_weights"].shape == (400,)


def test_too_few_temperatures_are_reported_as_unconverged():
    data, model = dataset(10), machine(10, 6, scale=6.0)
    log_z = ais.estimate(model, data, ais.Settings(temperatures=3, chains=100), bench()).numbers[0]
    assert log_z.converged is False
    assert log_z.evidence["effective_sample_size"] < 50
