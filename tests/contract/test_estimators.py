"""What every estimator must prove; estimators and models are found by their registries, never named here.

An estimator's file may declare `SMOKE`, overrides of its Settings that run in a moment, and `CLOCK_READINGS`, the
metrics that come from a clock: those are finite and declared like all others, and alone need not repeat.
"""

import functools
import importlib
import math
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dgmbench.data.prepared import VALUES, Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, Kind, Metric, Workbench
from dgmbench.estimators.registry import estimator, estimator_modules
from dgmbench.models.registry import model_class, model_modules
from dgmbench.training.session import Session

NAMES = sorted(estimator_modules())
CASES = [
    (name, model, values)
    for name in NAMES
    for model in sorted(model_modules())
    for values in VALUES
    if issubclass(model_class(model), estimator(name).REQUIRES) and values in model_class(model).accepts
]
CLOCK_UNITS = (
    "seconds",
    "milliseconds",
    "examples/second",
    "sweeps/second",
    "temperatures/second",
    "ratio",
    "exponent",
)
# Whatever an estimator calls its amount of work, this is little of it.
LITTLE = {"temperatures": 20, "chains": 20, "samples": 60, "k": 20, "count": 9, "validation_examples": 30}


@functools.cache
def tiny(values: str) -> Dataset:
    g = np.random.default_rng(21)
    if values == "binary":
        x = (g.random((300, 1)) < 0.4) ^ (g.random((300, 6)) < 0.15)
    else:
        x = g.normal(size=(300, 2)) @ np.array([[1.0, 0.9], [0.0, 0.45]])
        x = 1 / (1 + np.exp(-x)) if values == "unit" else x
    x, labels = x.astype(np.float32), (x[:, 0] > np.median(x[:, 0])).astype(np.int64)
    cuts = {"train": slice(0, 200), "validation": slice(200, 250), "test": slice(250, 300)}
    splits = {name: Split(x[cut], labels[cut]) for name, cut in cuts.items()}
    return Dataset("tiny", f"tiny-{values}", values, x.shape[1:], splits, {})


@functools.cache
def fitted(name: str, values: str):
    module = importlib.import_module(model_modules()[name])
    model = module.Model(module.Spec(**module.SMOKE), tiny(values).dimension)
    model.fit(tiny(values), Session(torch.Generator().manual_seed(1)))
    return model


def run(name: str, model: str, values: str, **settings) -> Estimates | None:
    """A tiny run of an estimator on a tiny model; None where it refuses."""
    module = estimator(name)
    little = {key: value for key, value in LITTLE.items() if key in module.Settings.model_fields}
    little |= getattr(module, "SMOKE", {}) | settings
    bench = Workbench(torch.Generator().manual_seed(5))
    try:
        return module.estimate(fitted(model, values), tiny(values), module.Settings(**little), bench)
    except CannotBeDone:
        return None


ENERGIES = [(model, values) for name, model, values in CASES if name == "enumeration"]


@pytest.mark.parametrize(("model", "values"), ENERGIES)
def test_annealing_up_and_down_agrees_with_enumeration(model, values):
    """Base, transitions, ratios and states of the target of every energy model, through the same estimators.

    States of Markov chains stand in where a model's enumeration gives none.
    """
    settings = {"temperatures": 200, "chains": 400, "target_sweeps": 300, "schedule": "adaptive"}
    found = run("bracket", model, values, **settings) or run(
        "bracket", model, values, target_states="gibbs", **settings
    )
    exact = run("enumeration", model, values)
    bounds = {number.metric: number for number in found.numbers}
    lower, upper = bounds["log_z_lower"], bounds["log_z_upper"]
    # Beyond 5 standard errors in 1.7 million, of either; 0.001 nats for the rounding of float32.
    for bound in (lower, upper):
        truth = exact.numbers[0].value if exact else (lower.value + upper.value) / 2
        assert abs(bound.value - truth) < 5 * bound.estimator_se + 1e-3
    grown = run("population_annealing", model, values, temperatures=200, replicas=400).numbers[0]
    assert abs(grown.value - lower.value) < 5 * math.hypot(grown.estimator_se, lower.estimator_se) + 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_an_estimator_file_has_its_shape(name):
    module = estimator(name)
    assert "=" in module.__doc__ or "~" in module.__doc__, "the docstring opens with the equation"
    assert isinstance(module.REQUIRES, type)
    for metric in module.METRICS.values():
        assert isinstance(metric, Metric)
        assert metric.kind in get_args(Kind)
        assert metric.unit
        assert metric.description
    for metric in getattr(module, "CLOCK_READINGS", ()):
        assert module.METRICS[metric].unit in CLOCK_UNITS
    for field_name, field in module.Settings.model_fields.items():
        assert field.description, f"{field_name} has no description"


@pytest.mark.parametrize("name", NAMES)
def test_settings_have_defaults_and_refuse_unknown_keys(name):
    module = estimator(name)
    assert module.Settings().split == "test"
    with pytest.raises(ValidationError):
        module.Settings(no_such_key=1)


@pytest.mark.parametrize(("name", "model", "values"), CASES)
def test_numbers_are_declared_finite_and_repeatable(name, model, values):
    module = estimator(name)
    found = run(name, model, values)
    if found is None:
        return
    assert found.numbers or found.arrays
    for number in found.numbers:
        assert isinstance(number, Estimate)
        assert number.metric in module.METRICS
        assert math.isfinite(number.value)
        assert number.estimator_se is None or number.estimator_se >= 0
        if number.per_example is not None:
            assert number.per_example.shape == (len(tiny(values).test),)
            assert number.per_example.dtype == np.float64
            assert number.value == pytest.approx(number.per_example.mean(), rel=1e-9, abs=1e-12)
    again = run(name, model, values)
    assert [n.metric for n in again.numbers] == [n.metric for n in found.numbers]
    clocked = getattr(module, "CLOCK_READINGS", frozenset())
    assert [(n.metric, n.value, n.estimator_se) for n in again.numbers if n.metric not in clocked] == [
        (n.metric, n.value, n.estimator_se) for n in found.numbers if n.metric not in clocked
    ]
    for key, array in found.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[key])


@pytest.mark.parametrize(("name", "model", "values"), CASES)
def test_the_split_and_the_number_of_examples_are_obeyed(name, model, values):
    found = run(name, model, values, split="validation", examples=12)
    for number in found.numbers if found else []:
        assert number.per_example is None or len(number.per_example) == 12
