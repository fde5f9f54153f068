"""Coverage of the intervals of log Z: what is counted, and that converged estimators hold what they state."""

import math

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import ais, log_z_coverage
from dgmbench.estimators._log_weights import delta_se, log_mean_exp
from dgmbench.estimators.base import Workbench
from dgmbench.estimators.enumeration import log_partition
from dgmbench.estimators.log_z_coverage import Settings
from dgmbench.models.boltzmann import rbm

METHODS = ("ais", "reverse-ais", "bracket", "population-annealing")


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


def run(model: rbm.Model, seed: int, **settings):
    work = Workbench(torch.Generator().manual_seed(seed))
    return log_z_coverage.estimate(model, dataset(model.dimension), Settings(**settings), work)


@pytest.mark.parametrize("method", METHODS)
def test_intervals_of_converged_estimates_hold_the_truth_as_often_as_they_say(method):
    model = machine(8, 5, scale=1.0)
    found = run(model, 1, method=method, temperatures=60, chains=50, repetitions=1000)
    numbers = {n.metric: n for n in found.numbers}
    # 95 % of 1,000, with room for the skew of 50 weights: sd 0.7 %, so 4.5 sd to either side of 93 to 97 %.
    assert 0.90 < numbers["coverage"].value < 0.995
    assert abs(numbers["bias"].value) < 4.5 * numbers["bias"].estimator_se + 0.01
    assert numbers["stated_se"].value == pytest.approx(numbers["rmse"].value, rel=0.2)


def test_bounds_lie_on_their_sides_and_the_bracket_holds_when_they_do_not():
    """6 temperatures and 10 chains on a strong machine: each direction alone misses far more than 1 in 20."""
    model = machine(10, 6, scale=3.0)
    small = {"temperatures": 6, "chains": 10, "repetitions": 1000}
    found = {m: {n.metric: n.value for n in run(model, 2, method=m, **small).numbers} for m in METHODS}
    assert found["ais"]["bias"] < -0.3
    assert found["reverse-ais"]["bias"] > 0.3
    assert found["ais"]["coverage"] < 0.8
    assert found["reverse-ais"]["coverage"] < 0.8
    assert found["bracket"]["coverage"] > 0.9
    assert abs(found["bracket"]["bias"]) < 0.2


def test_what_is_counted_is_what_single_runs_give():
    """The first repetition's chains are the first of the batch: its error and standard error are recomputed."""
    model = machine(8, 5, scale=2.0)
    data = dataset(8)
    found = run(model, 3, method="ais", temperatures=10, chains=30, repetitions=20)
    work = Workbench(torch.Generator().manual_seed(3))
    weights = ais.estimate(model, data, ais.Settings(temperatures=10, chains=600), work).arrays["log_weights"]
    weights, truth = weights.reshape(20, 30), log_partition(model.enumeration())
    error = model.annealed_path(data).log_z_base + log_mean_exp(weights) - truth
    np.testing.assert_allclose(found.arrays["error"], error, atol=1e-9)
    numbers = {n.metric: n for n in found.numbers}
    held = (abs(error) <= 1.959964 * delta_se(weights)).sum()
    assert numbers["coverage"].value == held / 20
    assert numbers["coverage"].evidence["held"] == held
    assert numbers["bias"].value == pytest.approx(error.mean())
    assert numbers["bias"].estimator_se == pytest.approx(error.std(ddof=1) / math.sqrt(20))
    assert numbers["rmse"].value == pytest.approx(math.sqrt((error**2).mean()))
    assert numbers["stated_se"].value == pytest.approx(delta_se(weights).mean())
    share = (held + 1.92073) / 23.84146
    assert numbers["coverage"].estimator_se == pytest.approx(math.sqrt(share * (1 - share) / 23.84146), rel=1e-5)


def test_a_large_machine_is_refused():
    with pytest.raises(CannotBeDone, match="the smaller side has 21 units"):
        run(rbm.Model(rbm.Spec(hidden=21), 30), 0)
