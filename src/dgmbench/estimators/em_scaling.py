"""How the time of an EM iteration grows with one size of the problem: an exponent, for ours and for scikit-learn.

    log seconds(s) = log a + b log s + error,   b by least squares over the sizes s of one axis,
    se(b)^2 = sum of squared residuals / ((m - 2) sum_j (log s_j - mean log s)^2),   m sizes

The axis is the number of examples, of components or of dimensions; the other two stay as they are set. In theory an
iteration grows with exponent 1, 1 and 2; small sizes, where overheads and caches count, lie off the line, and the
standard error tells by how much the sizes chosen do not follow one power.

Clock readings are not reproducible bits: nor are the exponents that are fitted to them.

Reference: Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm", Journal of the
Royal Statistical Society B 39(1), 1977; the peer: Pedregosa et al., "Scikit-learn: machine learning in Python", Journal
of Machine Learning Research 12, 2011.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from dgmbench.data.prepared import Dataset
from dgmbench.estimators._em_timing import TimingSettings, common_start, time_ours, time_peer
from dgmbench.estimators.base import Estimate, Estimates, Metric, Workbench
from dgmbench.models.base import Density

REQUIRES = Density
METRICS = {
    "exponent": Metric("exponent", "score", "lower", "b of seconds = a size^b, of ours"),
    "peer_exponent": Metric("exponent", "score", "neither", "b of seconds = a size^b, of scikit-learn"),
}
# Numbers that come from a clock: equal inputs do not give them again.
CLOCK_READINGS = frozenset(METRICS)
SMOKE: dict = {"iterations": 2, "axis": "components", "sizes": [1, 2, 3]}


class Settings(TimingSettings):
    axis: Literal["examples", "components", "dimensions"] = Field("examples", description="The size that is varied.")
    sizes: list[int] = Field([1000, 2000, 4000], min_length=3, description="Values of that size, three or more.")

    @field_validator("sizes")
    @classmethod
    def _sizes_grow(cls, sizes: list[int]) -> list[int]:
        if sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
            raise ValueError("sizes are positive and increase, such as [1000, 2000, 4000]")
        return sizes


def scorings(settings: Settings, examples: int) -> float:
    share = sum(settings.sizes) / settings.sizes[-1]
    return 4.0 * settings.iterations * share * examples


def fit_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """b of seconds = a size^b by least squares on the logarithms, and its standard error; three sizes or more."""
    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(seconds, dtype=float))
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    return slope, math.sqrt(float(np.square(y - slope * x).sum()) / ((len(x) - 2) * float(x @ x)))


def estimate(model: Density, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Both exponents; `estimator_se` is the standard error of the fit, the evidence holds the sizes and their times.

    Raises:
        CannotBeDone: the model is no Gaussian mixture, the run lacks a size, or a covariance is not definite.
    """
    found: dict[str, list[float]] = {"exponent": [], "peer_exponent": []}
    with bench.progress.task("EM", total=len(settings.sizes), unit="size") as task:
        for size in settings.sizes:
            sized = settings.model_copy(update={settings.axis: size})
            start, z = common_start(model, data, sized, bench.device)
            found["exponent"].append(time_ours(z, start, settings.precision, sized).seconds)
            found["peer_exponent"].append(time_peer(z, start, settings.precision, sized).seconds)
            task.advance(1)
    numbers = []
    for metric, seconds in found.items():
        slope, error = fit_exponent(settings.sizes, seconds)
        evidence = {"sizes": settings.sizes, "seconds": seconds, "threads": torch.get_num_threads()}
        numbers.append(Estimate(metric, slope, estimator_se=error, evidence=evidence))
    return Estimates(numbers)
