"""Schedules, annealed chains in both directions, resampling, and means of importance weights."""

import itertools
import math

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import _annealing
from dgmbench.estimators._annealing import (
    AnnealingSettings,
    anneal,
    betas,
    pilot_betas,
    relative_ess,
    spread,
    systematic,
)
from dgmbench.estimators._log_weights import delta_se, log_mean_exp, summarise
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


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def every(bits: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=bits)), dtype=torch.float64)


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


@pytest.mark.parametrize("schedule", ["linear", "sigmoid", "salakhutdinov-murray", "adaptive"])
def test_schedules_rise_from_zero_to_one(schedule):
    published = schedule == "salakhutdinov-murray"
    settings = AnnealingSettings(schedule=schedule, **({} if published else {"temperatures": 100}))
    found = betas(GaussianPath(0.1), settings, rng())
    assert found[0] == 0.0
    assert found[-1] == 1.0
    assert (np.diff(found) > 0).all()
    assert len(found) == settings.temperatures == (14_501 if published else 100)


def test_the_published_schedule_refuses_another_number_of_temperatures():
    with pytest.raises(ValueError, match="has 14501 temperatures: leave 'temperatures' out"):
        AnnealingSettings(schedule="salakhutdinov-murray", temperatures=100)


def test_published_schedule_has_the_published_steps():
    found = betas(GaussianPath(1.0), AnnealingSettings(schedule="salakhutdinov-murray"), rng())
    steps = np.diff(found)
    assert steps[found[:-1] < 0.4995] == pytest.approx(1e-3)
    assert steps[(found[:-1] > 0.5) & (found[:-1] < 0.8995)] == pytest.approx(1e-4)
    assert steps[found[:-1] > 0.9] == pytest.approx(1e-5)


@pytest.mark.parametrize("target", [0.7, 0.95])
def test_every_step_of_the_pilot_run_meets_its_target(target):
    """The exact relative effective sample size (E u)^2 / E u^2 of each step, summed over all states."""
    data, model = dataset(8), machine(8, 5, scale=3.0)
    path, states = model.annealed_path(data), every(8)
    settings = AnnealingSettings(increment_ess=target, pilot_chains=20_000, transitions=5)
    found = pilot_betas(path, settings, rng(2))
    assert len(found) > 4
    reached = []
    for beta_from, beta_to in itertools.pairwise(found):
        p = torch.softmax(path.log_unnormalised(states, beta_from), 0)
        u = torch.exp(path.log_ratio(states, beta_from, beta_to))
        reached.append(float((p * u).sum() ** 2 / (p * u**2).sum()))
    # 20,000 replicas: a share near 0.9 scatters by less than 0.005.
    assert np.array(reached[:-1]) == pytest.approx(target, abs=0.03)
    assert reached[-1] > target - 0.03  # the last step ends at 1, wherever that is


def test_temperatures_are_spread_evenly_over_the_steps_of_the_pilot_run():
    found = np.array([0.0, 0.1, 0.4, 1.0])
    np.testing.assert_allclose(spread(found, 7), [0, 0.05, 0.1, 0.25, 0.4, 0.7, 1.0])
    np.testing.assert_array_equal(spread(found, 2), [0.0, 1.0])


def test_a_pilot_run_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(_annealing, "_MOST_PILOT_STEPS", 50)

    class Jump(GaussianPath):
        """Every move, however small, leaves one replica with all the weight."""

        def log_ratio(self, state, beta_from, beta_to):
            return torch.where(state[:, 0] == state[:, 0].max(), 0.0, -1e6).double()

    with pytest.raises(CannotBeDone, match="lower increment_ess"):
        pilot_betas(Jump(1.0), AnnealingSettings(pilot_chains=10), rng())


@pytest.mark.parametrize("schedule", ["linear", "adaptive"])
def test_weights_are_unbiased_even_when_annealed_fast(schedule):
    """E[w] = Z / Z_0 holds for any number of temperatures: checked with 5, where the scatter is large."""
    data, model = dataset(6), machine(6, 3, scale=1.0)
    path, bench = model.annealed_path(data), Workbench(rng(4))
    chosen = betas(path, AnnealingSettings(temperatures=5, schedule=schedule, pilot_chains=20), bench.generator)
    log_weights = anneal(path, chosen, path.sample_base(100_000, bench.generator), 1, bench).numpy()
    ratio = np.exp(log_weights + path.log_z_base - log_partition(model.enumeration()))
    # The mean of 100,000 draws is normal to good approximation: 2 cases, beyond 4.5 standard errors in 75,000.
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std(ddof=1) / math.sqrt(len(ratio))
    assert log_weights.mean() + path.log_z_base < log_partition(model.enumeration())


def test_any_annealed_path_will_do_in_both_directions():
    path, bench = GaussianPath(0.3), Workbench(rng(6))
    exact = math.log(0.3 * math.sqrt(2 * math.pi))
    chosen = betas(path, AnnealingSettings(temperatures=200), bench.generator)
    up = anneal(path, chosen, path.sample_base(2000, bench.generator), 1, bench).numpy()
    down = anneal(path, chosen[::-1], 0.3 * path.sample_base(2000, bench.generator), 1, bench).numpy()
    for found in (summarise(up, path.log_z_base, 0.1), summarise(down, path.log_z_base, 0.1, sign=-1.0)):
        # Beyond 4 standard errors in 16,000 seeds, each of two.
        assert abs(found.log_z - exact) < 4 * found.se
        assert found.se < 0.02
        assert not found.failing


def test_systematic_resampling_keeps_floor_or_ceil_of_the_expected_number():
    log_weights = torch.randn(50, 40, generator=rng(1), dtype=torch.float64) * 1.5
    expected = 40 * torch.softmax(log_weights, 1)
    chosen = systematic(log_weights, rng(2))
    assert (chosen.diff(dim=1) >= 0).all()
    counts = torch.zeros_like(expected).scatter_add_(1, chosen, torch.ones_like(expected))
    assert (counts >= expected.floor()).all()
    assert (counts <= expected.ceil()).all()


def test_systematic_resampling_is_unbiased():
    log_weights = torch.log(torch.tensor([0.05, 0.3, 0.11, 0.54], dtype=torch.float64)).expand(50_000, 4)
    chosen = systematic(log_weights, rng(3))
    counts = torch.stack([(chosen == i).sum(1) for i in range(4)], 1).double()
    # Each count scatters by at most 0.5: 4 comparisons beyond 5 standard errors in 400,000.
    assert (counts.mean(0) - 4 * log_weights[0].exp()).abs().max() < 5 * 0.5 / math.sqrt(50_000)


def test_relative_effective_sample_size_of_known_weights():
    log_weights = torch.log(torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)) + 900
    assert relative_ess(log_weights).tolist() == pytest.approx([100 / 30 / 4, 1.0])


def test_summary_of_known_weights():
    log_weights = np.log(np.array([1.0, 2.0, 3.0, 4.0]))
    found = summarise(log_weights, 10.0, tolerance=10.0)
    evidence = found.evidence
    assert found.log_z == pytest.approx(10 + math.log(2.5))
    assert found.se == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / (2.5 * 2))
    assert evidence["effective_sample_size"] == pytest.approx(100 / 30)
    assert evidence["largest_weight_share"] == pytest.approx(0.4)
    assert evidence["log_z_first_half"] == pytest.approx(10 + math.log(1.5))
    assert evidence["log_z_second_half"] == pytest.approx(10 + math.log(3.5))
    left_out = np.log((10 - np.array([1, 2, 3, 4])) / 3)
    assert evidence["se_jackknife"] == pytest.approx(math.sqrt(3 / 4 * ((left_out - left_out.mean()) ** 2).sum()))
    assert found.failing == ["effective sample size too small"]  # four chains are not evidence of anything
    assert summarise(log_weights, 10.0, 10.0, sign=-1.0).log_z == pytest.approx(10 - math.log(2.5))


def test_weights_far_from_zero_do_not_overflow():
    shifted = summarise(np.array([900.0, 901.0, 899.0, 900.5]), 0.0, 0.1)
    plain = summarise(np.array([0.0, 1.0, -1.0, 0.5]), 0.0, 0.1)
    assert shifted.log_z == pytest.approx(plain.log_z + 900)
    assert shifted.se == pytest.approx(plain.se)


def test_means_and_errors_of_many_runs_are_those_of_each():
    log_weights = np.random.default_rng(0).normal(size=(5, 30))
    assert log_mean_exp(log_weights) == pytest.approx([summarise(run, 0.0, 1.0).log_z for run in log_weights])
    assert delta_se(log_weights) == pytest.approx([summarise(run, 0.0, 1.0).se for run in log_weights])


def test_infinite_weights_are_refused():
    with pytest.raises(CannotBeDone, match="not finite"):
        summarise(np.array([0.0, math.inf, 0.0, 0.0]), 0.0, 0.1)
