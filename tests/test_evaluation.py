"""What an evaluation makes of numbers that cannot be: not finite, or probabilities above 1."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dgmbench import evaluation
from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench

METRICS = {
    "log_likelihood": Metric("nats", "estimate", "higher", ""),
    "log_likelihood_upper": Metric("nats", "upper-bound", "higher", ""),
    "bound": Metric("nats", "lower-bound", "higher", ""),
    "log_z": Metric("nats", "estimate", "neither", ""),
}


def outcome(values: str, **numbers: float):
    """What `_estimate` gives and writes down, of an estimator that gives these numbers on such data."""
    estimates = Estimates([Estimate(metric, value) for metric, value in numbers.items()])
    module = SimpleNamespace(METRICS=METRICS, estimate=lambda *arguments: estimates)
    result = {"status": "done", "reason": None, "log_tail": []}
    data, bench = SimpleNamespace(values=values), Workbench(torch.Generator())
    given = evaluation._estimate(module, None, data, None, bench, result)
    assert (given is estimates) == (result["status"] == "done")
    return result


@pytest.mark.parametrize("metric", ["log_likelihood", "bound"])
def test_binary_examples_with_more_than_probability_one_are_a_failure(metric):
    found = outcome("binary", **{metric: 7.0424})
    assert found["status"] == "failed"
    assert f"{metric} = 7.042 nats" in found["reason"]
    assert "log Z is far too low" in found["reason"]
    assert outcome("binary", **{metric: -0.1})["status"] == "done"


def test_densities_upper_bounds_and_partition_functions_may_be_above_zero():
    assert outcome("real", log_likelihood=150.0)["status"] == "done"
    assert outcome("binary", log_likelihood_upper=0.3, log_z=800.0)["status"] == "done"


def test_numbers_that_are_not_finite_are_a_failure_and_refusals_say_why():
    assert "log_z = nan" in outcome("binary", log_z=float("nan"))["reason"]

    def refuse(*arguments):
        raise CannotBeDone("too many units")

    result = {}
    data = SimpleNamespace(values="binary")
    assert (
        evaluation._estimate(SimpleNamespace(METRICS=METRICS, estimate=refuse), None, data, None, None, result) is None
    )
    assert result == {"status": "refused", "reason": "too many units"}


def sorted_by_class(n: int, binarize: bool = False) -> Dataset:
    x, labels = np.arange(n, dtype=np.float32)[:, None], np.arange(n) * 10 // n
    splits = {"train": Split(x), "test": Split(x, labels, labels + 100, binarize)}
    return Dataset("sorted", "sorted", "real", (1,), splits, {})


@pytest.mark.parametrize(("n", "m"), [(100, 10), (97, 10), (10, 10), (1000, 1), (11, 7), (10, 9)])
def test_the_examples_that_are_scored_are_evenly_spaced(n, m):
    data, rows = evaluation.scored(sorted_by_class(n), EstimatorSettings(examples=m))
    test = data.splits["test"]
    taken = test.x[:, 0].astype(int)
    assert len(test) == m
    assert (rows is None) == (m == n)
    assert rows is None or rows.tolist() == taken.tolist()
    assert np.ptp(np.diff(taken)) <= 1 if m > 1 else taken[0] == n // 2
    assert taken[0] + taken[-1] in (n - 1, n)  # as much is left out before the first as after the last
    assert (test.labels == taken * 10 // n).all()
    assert (test.groups == test.labels + 100).all()
    if m == 10:
        assert set(test.labels.tolist()) == set(range(10))
    assert len(data.train) == len(data.test) == len(data.splits["train"]) == n


@pytest.mark.parametrize("asked", [None, 50, 60])
def test_all_examples_are_scored_where_no_fewer_are_asked_for(asked):
    whole = sorted_by_class(50)
    data, rows = evaluation.scored(whole, EstimatorSettings(examples=asked))
    assert data is whole
    assert rows is None


def test_what_is_binarized_at_each_draw_still_is():
    data, _ = evaluation.scored(sorted_by_class(50, binarize=True), EstimatorSettings(examples=5))
    assert data.splits["test"].binarize
    assert data.dimension == 1
