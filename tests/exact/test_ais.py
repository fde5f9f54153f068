"""Annealed importance sampling against enumeration, and its own account of its error."""

import math

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import ais
from dgmbench.estimators.base import Workbench
from dgmbench.estimators.enumeration import log_partition
from dgmbench.models.base import AnnealedPath
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


def test_weights_are_unbiased_even_when_annealed_fast():
    """E[w] = Z / Z_0 holds for any number of temperatures: checked with 5, where the scatter is large."""
    data, model = dataset(6), machine(6, 3, scale=1.0)
    path = model.annealed_path(data)
    settings = ais.Settings(temperatures=5, chains=100_000)
    log_weights = ais.anneal(path, ais.betas(settings), settings, bench(4)).numpy()
    ratio = np.exp(log_weights + path.log_z_base - log_partition(model.enumeration()))
    # The mean of 100,000 draws is normal to good approximation: beyond 4.5 standard errors in 150,000.
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std(ddof=1) / math.sqrt(len(ratio))
    assert log_weights.mean() + path.log_z_base < log_partition(model.enumeration())


def test_too_few_temperatures_are_reported_as_unconverged():
    data, model = dataset(10), machine(10, 6, scale=6.0)
    log_z = ais.estimate(model, data, ais.Settings(temperatures=3, chains=100), bench()).numbers[0]
    assert log_z.converged is False
    assert log_z.evidence["effective_sample_size"] < 50


def test_summary_of_known_weights():
    log_weights = np.log(np.array([1.0, 2.0, 3.0, 4.0]))
    log_z, se, converged, evidence = ais.summarise(10.0, log_weights, tolerance=10.0)
    assert log_z == pytest.approx(10 + math.log(2.5))
    assert se == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / (2.5 * 2))
    assert evidence["effective_sample_size"] == pytest.approx(100 / 30)
    assert evidence["largest_weight_share"] == pytest.approx(0.4)
    assert evidence["log_z_first_half"] == pytest.approx(10 + math.log(1.5))
    assert evidence["log_z_second_half"] == pytest.approx(10 + math.log(3.5))
    left_out = np.log((10 - np.array([1, 2, 3, 4])) / 3)
    assert evidence["se_jackknife"] == pytest.approx(math.sqrt(3 / 4 * ((left_out - left_out.mean()) ** 2).sum()))
    assert not converged  # four chains are not evidence of anything


def test_weights_far_from_zero_do_not_overflow():
    shifted = ais.summarise(0.0, np.array([900.0, 901.0, 899.0, 900.5]), 0.1)
    plain = ais.summarise(0.0, np.array([0.0, 1.0, -1.0, 0.5]), 0.1)
    assert shifted[0] == pytest.approx(plain[0] + 900)
    assert shifted[1] == pytest.approx(plain[1])


def test_infinite_weights_are_refused():
    with pytest.raises(CannotBeDone, match="not finite"):
        ais.summarise(0.0, np.array([0.0, math.inf, 0.0, 0.0]), 0.1)


@pytest.mark.parametrize("schedule", ["linear", "sigmoid", "salakhutdinov-murray"])
def test_schedules_rise_from_zero_to_one(schedule):
    published = schedule == "salakhutdinov-murray"
    settings = ais.Settings(schedule=schedule) if published else ais.Settings(schedule=schedule, temperatures=100)
    betas = ais.betas(settings)
    assert betas[0] == 0.0
    assert betas[-1] == 1.0
    assert (np.diff(betas) > 0).all()
    assert len(betas) == settings.temperatures == (14_501 if published else 100)


def test_the_published_schedule_refuses_another_number_of_temperatures():
    with pytest.raises(ValueError, match="has 14501 temperatures: leave 'temperatures' out"):
        ais.Settings(schedule="salakhutdinov-murray", temperatures=100)


def test_published_schedule_has_the_published_steps():
    betas = ais.betas(ais.Settings(schedule="salakhutdinov-murray"))
    steps = np.diff(betas)
    assert steps[betas[:-1] < 0.4995] == pytest.approx(1e-3)
    assert steps[(betas[:-1] > 0.5) & (betas[:-1] < 0.8995)] == pytest.approx(1e-4)
    assert steps[betas[:-1] > 0.9] == pytest.approx(1e-5)


class GaussianPath(AnnealedPath):
    """From N(0, 1) to an unnormalised N(0, sd^2) on the line: log Z is known, and no model is involved."""

    def __init__(self, sd: float):
        self.precision = sd**-2
        self.log_z_base = 0.5 * math.log(2 * math.pi)

    def _precision(self, beta: float) -> float:
        return (1 - beta) + beta * self.precision

    def sample_base(self, n, generator):
        return torch.randn(n, 1, generator=generator, dtype=torch.float64)

    def log_unnormalised(self, state, beta):
        return -0.5 * self._precision(beta) * state[:, 0] ** 2

    def step(self, state, beta, generator):
        noise = torch.randn(state.shape, generator=generator, dtype=torch.float64)
        return noise / math.sqrt(self._precision(beta))


def test_any_annealed_path_will_do():
    path, settings = GaussianPath(0.3), ais.Settings(temperatures=200, chains=2000)
    log_weights = ais.anneal(path, ais.betas(settings), settings, bench(6)).numpy()
    log_z, se, converged, _ = ais.summarise(path.log_z_base, log_weights, 0.1)
    # Beyond 4 standard errors in 16,000 seeds.
    assert abs(log_z - math.log(0.3 * math.sqrt(2 * math.pi))) < 4 * se
    assert converged
