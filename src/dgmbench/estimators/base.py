"""What an estimator is: how a number is obtained from a trained model and a dataset.

An estimator is one file: docstring (equation, reference), `Settings`, `REQUIRES` (the capability that it asks
for), `METRICS` (name, unit, kind and direction of every number it gives) and `estimate`. It knows
capabilities, never models.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from dgmbench.progress import NoProgress, Progress

Kind = Literal["exact", "lower-bound", "upper-bound", "estimate", "parzen", "score"]


class EstimatorSettings(BaseModel):
    """Settings of an estimator. `split` is what it is measured on; anything chosen is chosen on validation.

    Where `examples` are asked for, an evaluation hands over data whose split has these rows only, evenly spaced; an
    estimator that is called by itself scores the first ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    split: Literal["train", "validation", "test"] = Field("test", description="Which split is scored.")
    examples: int | None = Field(
        None, ge=1, description="Score only so many examples, evenly spaced over the split; null for all."
    )


@dataclass(frozen=True)
class Metric:
    """A declared number: its unit, its kind and which direction is better."""

    unit: str
    kind: Kind
    better: Literal["higher", "lower", "neither"]
    description: str


@dataclass
class Estimate:
    """One number from one run.

    Attributes:
        value: the number (for likelihoods, the mean over examples).
        per_example: (n,) values whose mean is `value`, or None.
        estimator_se: standard error of `value` from the estimator's own Monte Carlo; 0 where it draws nothing, None
            where it cannot be told from the draws.
        converged: whether the evidence says that more work would not move the value; None where the question
            does not arise (exact numbers, fixed protocols).
        evidence: what `converged` rests on: effective sample sizes, halves, chosen bandwidths.
    """

    metric: str
    value: float
    per_example: np.ndarray | None = None
    estimator_se: float | None = 0.0
    converged: bool | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass
class Estimates:
    """What an estimator returns: numbers, and arrays that a picture is made from."""

    numbers: list[Estimate]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Workbench:
    """What an estimator is given beside model, data and settings: its randomness, device and progress."""

    generator: torch.Generator
    progress: Progress = field(default_factory=NoProgress)

    @property
    def device(self) -> torch.device:
        return self.generator.device


def evenly_spaced(m: int, n: int) -> np.ndarray:
    """m of n rows, all of them if m > n: floor((i + 1/2) n / m), i = 0 .. m - 1.

    A split may be sorted by class or by the image that patches were cut from: its first rows stand for none but
    themselves.
    """
    m = min(m, n)
    return (2 * np.arange(m) + 1) * n // (2 * m)


class Estimator(ModuleType):
    """The shape of an estimator's module (for readers and type checkers).

    A module may also define `scorings(settings, examples) -> float`, how often it scores an example of the model:
    predicted times are scaled by it. Without it, once for each example.
    """

    Settings: type[EstimatorSettings]
    REQUIRES: type
    METRICS: dict[str, Metric]
    estimate: Callable[..., Estimates]
