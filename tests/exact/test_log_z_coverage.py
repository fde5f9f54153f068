"""Coverage of the intervals of log Z: what is counted, and that converged estimators hold what they state."""

import math

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import ais, log_z_coverage
from dgmbench.estimators._log_weights import delta_se, log_mean_exp
from dgmbench.estimators.base import Estimate, Workbench
from dgmbench.estimators.enumeration import log_partition
from dgmbench.estimators.log_z_coverage import METHODS, Intervals, Settings, assess
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


def run(model: rbm.Model, seed: int, **settings):
    work = Workbench(torch.Generator().manual_seed(seed))
    return log_z_coverage.estimate(model, dataset(model.dimension), Settings(**settings), work)


def by_name(found, quantity: str) -> dict[str, Estimate]:
    return {method: next(n for n in found.numbers if n.metric == f"{method}_{quantity}") for method in METHODS}


def test_intervals_of_converged_estimates_hold_the_truth_as_often_as_they_say():
    found = run(machine(8, 5, scale=1.0), 1, temperatures=60, chains=50, repetitions=1000)
    bias, rmse, stated = (by_name(found, quantity) for quantity in ("bias", "rmse", "stated_se"))
    for method, coverage in by_name(found, "coverage").items():
        # 95 % of 1,000 scatters by 0.7 %; the skew of 50 weights takes 2 % at the most: 4.5 sd on either side.
        assert 0.90 < coverage.value < 0.995, method
        assert abs(bias[method].value) < 4.5 * bias[method].estimator_se + 0.01
        assert stated[method].value == pytest.approx(rmse[method].value, rel=0.2)


def test_bounds_lie_on_their_sides_and_the_bracket_holds_when_they_do_not():
    """6 temperatures and 10 chains on a strong machine: each direction alone misses far more than 1 in 20."""
    found = run(machine(10, 6, scale=3.0), 2, temperatures=6, chains=10, repetitions=1000)
    bias, coverage = by_name(found, "bias"), by_name(found, "coverage")
    assert bias["ais"].value < -0.3
    assert bias["reverse_ais"].value > 0.3
    assert bias["population_annealing"].value < 0
    assert coverage["ais"].value < 0.8
    assert coverage["reverse_ais"].value < 0.8
    assert coverage["bracket"].value > 0.9
    assert abs(bias["bracket"].value) < 0.2


def test_what_is_counted_is_what_single_runs_give():
    """The batch of 20 repetitions of 30 chains is one run of AIS with 600: errors and intervals are recomputed."""
    model, data = machine(8, 5, scale=2.0), dataset(8)
    found = run(model, 3, temperatures=10, chains=30, repetitions=20)
    work = Workbench(torch.Generator().manual_seed(3))
    weights = ais.estimate(model, data, ais.Settings(temperatures=10, chains=600), work).arrays["log_weights"]
    weights, truth = weights.reshape(20, 30), log_partition(model.enumeration())
    error = model.annealed_path(data).log_z_base + log_mean_exp(weights) - truth
    np.testing.assert_allclose(found.arrays["ais_error"], error, atol=1e-9)
    np.testing.assert_allclose(found.arrays["ais_se"], delta_se(weights), atol=1e-12)
    held = (abs(error) <= 1.959964 * delta_se(weights)).sum()
    assert by_name(found, "coverage")["ais"].value == held / 20
    np.testing.assert_allclose(
        found.arrays["bracket_error"], (found.arrays["ais_error"] + found.arrays["reverse_ais_error"]) / 2
    )


def test_known_intervals():
    low, high = np.array([0.0, 1.0, -3.0, 2.5]), np.array([0.5, 1.0, -1.0, 3.5])
    se = np.full(4, 0.3)
    found = assess(Intervals(low, high, se, 2 * se, 3 * se), 0.0)
    # Held: from -0.59 to 1.68 and from -3.59 to 0.18; missed: from 0.41 up and from 1.91 up.
    assert found["coverage"][0] == 0.5
    share = (2 + 1.92073) / 7.84146
    assert found["coverage"][1] == pytest.approx(math.sqrt(share * (1 - share) / 7.84146), rel=1e-5)
    middle = np.array([0.25, 1.0, -2.0, 3.0])
    assert found["bias"] == pytest.approx((middle.mean(), middle.std(ddof=1) / 2))
    rmse = math.sqrt((middle**2).mean())
    assert found["rmse"] == pytest.approx((rmse, (middle**2).std(ddof=1) / 2 / (2 * rmse)))
    assert found["stated_se"] == pytest.approx((0.9, 0.0))


def test_a_large_machine_is_refused():
    with pytest.raises(CannotBeDone, match="the smaller side has 21 units"):
        run(rbm.Model(rbm.Spec(hidden=21), 30), 0)
