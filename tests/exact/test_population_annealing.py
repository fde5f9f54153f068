"""Population annealing against enumeration, its families, and its equality with AIS where nothing is resampled."""

import math

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import ais, population_annealing
from dgmbench.estimators._annealing import AnnealingSettings, betas
from dgmbench.estimators.base import Workbench
from dgmbench.estimators.enumeration import log_partition
from dgmbench.estimators.population_annealing import Populations, Settings, anneal_populations
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


@pytest.mark.parametrize("resample_below", [0.5, 1.0])
@pytest.mark.parametrize("temperatures", [2, 50])
def test_exact_without_weights(temperatures, resample_below):
    """With W = 0 and the base rates as visible biases every replica has the same weight, whatever it visits."""
    data, model = dataset(8), machine(8, 5, scale=0.0)
    model.visible_bias = rbm.base_rate_log_odds(data)
    settings = Settings(temperatures=temperatures, replicas=20, resample_below=resample_below)
    log_z, log_likelihood = population_annealing.estimate(model, data, settings, bench()).numbers
    exact = log_partition(model.enumeration())
    assert log_z.value == pytest.approx(exact, abs=1e-10)
    exact_mean = (model.log_unnormalised(data.test.all()) - exact).mean().item()
    assert log_likelihood.value == pytest.approx(exact_mean, abs=1e-10)


@pytest.mark.parametrize("schedule", ["linear", "adaptive"])
@pytest.mark.parametrize("resample_below", [0.5, 1.0])
def test_strong_machine_within_its_stated_error(schedule, resample_below):
    data, model = dataset(10), machine(10, 6, scale=3.0)
    settings = Settings(schedule=schedule, temperatures=200, replicas=2000, resample_below=resample_below)
    log_z, log_likelihood = population_annealing.estimate(model, data, settings, bench(1)).numbers
    exact = log_partition(model.enumeration())
    # Beyond 4 standard errors in 16,000; 4 cases, so a false alarm in 4,000 seeds.
    assert abs(log_z.value - exact) < 4 * log_z.estimator_se
    assert 0 < log_z.estimator_se < 0.1
    assert log_z.converged
    assert (log_z.evidence["resamplings"] > 100) == (resample_below == 1.0)
    shift = exact - log_z.value
    exact_mean = (model.log_unnormalised(data.test.all()) - exact).mean().item()
    assert log_likelihood.value == pytest.approx(exact_mean + shift, abs=1e-9)


@pytest.mark.parametrize("resample_below", [0.7, 1.0])
def test_z_is_unbiased_for_a_fixed_schedule(resample_below):
    """20,000 populations of 8 replicas over 5 temperatures, where log Z scatters by more than half a nat."""
    data, model = dataset(6), machine(6, 3, scale=1.5)
    path, work = model.annealed_path(data), bench(4)
    chosen = betas(path, AnnealingSettings(temperatures=5), work.generator)
    found = anneal_populations(path, chosen, 20_000, 8, 1, resample_below, work)
    ratio = np.exp(found.log_ratio + path.log_z_base - log_partition(model.enumeration()))
    assert np.log(ratio).std() > 0.3
    assert found.resamplings.min() < found.resamplings.max() or resample_below == 1.0
    assert found.resamplings.mean() > 0.5
    # Beyond 4.5 standard errors in 150,000; 2 cases.
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std(ddof=1) / math.sqrt(len(ratio))
    assert np.log(ratio).mean() < 0


def test_populations_in_one_batch_are_those_of_single_runs_in_distribution():
    """The mean and scatter of log Z of 2,000 populations in one batch, and of 500 of their own."""
    data, model = dataset(6), machine(6, 3, scale=1.5)
    path = model.annealed_path(data)
    chosen = betas(path, AnnealingSettings(temperatures=5), torch.Generator())
    batch = anneal_populations(path, chosen, 2_000, 20, 1, 0.8, bench(5)).log_ratio
    work = bench(6)
    single = np.array([anneal_populations(path, chosen, 1, 20, 1, 0.8, work).log_ratio[0] for _ in range(500)])
    # Beyond 4.5 standard errors in 150,000, of either.
    assert abs(batch.mean() - single.mean()) < 4.5 * math.hypot(batch.std() / 2_000**0.5, single.std() / 500**0.5)
    assert single.std() == pytest.approx(batch.std(), rel=4.5 * (1 / 1000 + 1 / 4000) ** 0.5 * 1.3)


def test_without_resampling_it_is_ais():
    data, model = dataset(8), machine(8, 5, scale=1.0)
    settings = {"temperatures": 30, "schedule": "linear"}
    own = population_annealing.estimate(model, data, Settings(replicas=50, resample_below=0.01, **settings), bench(7))
    same = ais.estimate(model, data, ais.Settings(chains=50, **settings), bench(7))
    assert own.numbers[0].value == pytest.approx(same.numbers[0].value, abs=1e-12)
    assert own.numbers[0].estimator_se == pytest.approx(same.numbers[0].estimator_se, rel=1e-9)
    assert own.numbers[0].evidence["effective_families"] == pytest.approx(
        same.numbers[0].evidence["effective_sample_size"]
    )


def test_families_of_known_shares():
    share = np.array([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    found = Populations(np.zeros(3), share, np.zeros(3))
    assert found.rho == pytest.approx([1, 4, 2])
    assert found.se == pytest.approx([0, 1, math.sqrt(1 / 3)])


def test_families_partition_the_population():
    data, model = dataset(8), machine(8, 5, scale=4.0)
    path, work = model.annealed_path(data), bench(8)
    found = anneal_populations(path, np.linspace(0, 1, 8), 10, 40, 1, 1.0, work)
    assert found.family_share.shape == (10, 40)
    assert found.family_share.sum(1) == pytest.approx(1)
    assert (found.family_share.max(1) > 1 / 40).all()
    assert (found.rho >= 1).all()
    assert (found.resamplings == 6).all()  # at every temperature but the two ends


def test_a_population_that_dies_out_is_reported_with_its_reasons():
    data, model = dataset(10), machine(10, 6, scale=8.0)
    log_z = population_annealing.estimate(model, data, Settings(temperatures=3, replicas=100), bench(9)).numbers[0]
    assert log_z.converged is False
    assert "too few effective families" in log_z.evidence["not_converged_because"]
    assert log_z.evidence["largest_family_share"] > 0.05


def test_energies_that_overflow_are_refused():
    data, model = dataset(6), machine(6, 3, scale=1.0)
    model.visible_bias = torch.full((6,), math.inf, dtype=torch.float64)
    with pytest.raises(CannotBeDone, match="not finite"):
        population_annealing.estimate(model, data, Settings(temperatures=4, replicas=10), bench())
