"""Clock readings: programs in turn, medians with standard errors, ratios, shares of the machine's rate of products.

    share of the rate = (floating-point operations of a program's products / its seconds) / the machine's rate

with the rate, operations a second, of a large square product that is timed in turn with the programs.

Reference for the standard error of a median: Kendall and Stuart, "The advanced theory of statistics", volume 1, 10.10.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgmbench.estimators.base import Estimate
from dgmbench.progress import Task
from dgmbench.training.session import Session

# Standard error of a median over that of a mean, of many normal readings.
_MEDIAN = math.sqrt(math.pi / 2)
LARGEST_SHARE = 1.05  # of a part in the whole that holds it, for the clock
_LARGEST_SPREAD = 1.3  # of the square product's upper quartile over its median
_SQUARE = 1024  # side of the square product that the machine's rate is read from


@dataclass(frozen=True)
class Timing:
    """Seconds of every reading (t,), what came before them having warmed up."""

    all_seconds: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return float(np.median(self.all_seconds))

    @property
    def standard_error(self) -> float | None:
        """Of the median, as if readings were normal; None where there is only one."""
        if len(self.all_seconds) < 2:
            return None
        return _MEDIAN * float(np.std(self.all_seconds, ddof=1)) / math.sqrt(len(self.all_seconds))


def turns(programs: dict[str, Callable[[], float]], repeats: int, task: Task) -> dict[str, Timing]:
    """The programs in turn, each giving the seconds of its own reading, `repeats` times after one that is not counted.

    What else the machine does meanwhile falls on all of them alike. `task` counts the turns, the first one too.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in range(repeats + 1):
        for name, program in programs.items():
            reading = program()
            if repeat:
                seconds[name].append(reading)
        task.advance()
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def clocked(program: Callable[[], object], calls: int = 1, device: str = "cpu") -> Callable[[], float]:
    """A program that gives the median seconds of so many calls of another one, each with its work done: an accelerator
    goes on after a call has come back."""

    def reading() -> float:
        seconds = []
        for _ in range(calls):
            began = time.perf_counter()
            program()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        return float(np.median(seconds))

    return reading


def busy(square: Timing) -> str | None:
    """Why readings of equal square products cannot be those of a machine that did nothing else, if they cannot."""
    spread = float(np.quantile(square.all_seconds, 0.75)) / square.seconds
    if spread > _LARGEST_SPREAD:
        return f"a quarter of the square products took {spread:.2f} times their median: time it on an idle machine"
    return None


def mark_busy(numbers: Iterable[Estimate], reason: str | None) -> None:
    """Clock readings that a reason was found against have not converged; nothing where there is none."""
    for number in numbers:
        if reason is not None:
            number.converged = False
            number.evidence["not_converged_because"] = reason


class Clocked(Session):
    """A session that reads the clock before every `every`-th step and after the last.

    It takes at most `most` steps of those that are asked for.
    """

    def __init__(self, generator: torch.Generator, every: int = 1, most: int | None = None):
        super().__init__(generator)
        self.clock: list[float] = []
        self._every, self._most = every, most

    def steps(self, total: int, unit: str = "step") -> Iterator[int]:
        for step in super().steps(total if self._most is None else min(total, self._most), unit):
            if step % self._every == 0:
                self.clock.append(time.perf_counter())
            yield step
        self.clock.append(time.perf_counter())


def square_product(generator: torch.Generator) -> tuple[Callable[[], Tensor], float]:
    """A large float32 product, and how many floating-point operations it takes."""
    a, b = torch.randn(2, _SQUARE, _SQUARE, generator=generator, device=generator.device)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2.0 * _SQUARE**3


def time_of(metric: str, timing: Timing, of: float, evidence: dict[str, Any]) -> Estimate:
    """The median over readings divided by `of`: units of work in a reading, over units of time in a second."""
    error = None if timing.standard_error is None else timing.standard_error / of
    seconds = [value / of for value in timing.all_seconds]
    return Estimate(metric, timing.seconds / of, estimator_se=error, evidence={**evidence, "seconds": seconds})


def rate_of(metric: str, timing: Timing, of: float, evidence: dict[str, Any]) -> Estimate:
    """`of` over the median of the readings: units of work in a reading, by the second."""
    rate = of / timing.seconds
    error = None if timing.standard_error is None else rate * timing.standard_error / timing.seconds
    return Estimate(metric, rate, estimator_se=error, evidence=evidence)


def paired_ratio(metric: str, above: Timing, below: Timing, evidence: dict[str, Any], scale: float = 1.0) -> Estimate:
    """The median of the ratios of readings that were taken in turn."""
    ratios = Timing(tuple(scale * a / b for a, b in zip(above.all_seconds, below.all_seconds, strict=True)))
    return Estimate(metric, ratios.seconds, estimator_se=ratios.standard_error, evidence=evidence)
