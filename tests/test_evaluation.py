"""What an evaluation makes of numbers that cannot be: not finite, or probabilities above 1."""

from types import SimpleNamespace

import pytest
import torch

from dgmbench import evaluation
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, Metric, Workbench

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
