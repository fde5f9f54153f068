"""Exact log-likelihood of a density that can be evaluated.

    log_likelihood = (1/n) sum_i log p(x_i), nats

Reference: Theis, van den Oord and Bethge, "A note on the evaluation of generative models", ICLR 2016, section 3.1.
Comparable only between models of the same data in the same units: binary data have a mass, real data a density.
"""

import numpy as np
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Density

REQUIRES = Density
METRICS = {"log_likelihood": Metric("nats", "exact", "higher", "mean log p(x) over the examples scored")}


class Settings(EstimatorSettings):
    chunk: int = Field(10_000, ge=1, description="Examples evaluated at once: bounds memory, changes no number.")


def estimate(model: Density, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """log p(x) of every example of a split.

    Raises:
        CannotBeDone: where log p(x) is not finite for some example.
    """
    split = data.splits[settings.split]
    count = min(settings.examples or len(split), len(split))
    per_example = np.empty(count)
    with bench.progress.task("exact likelihood", total=count, unit="example") as task:
        for start in range(0, count, settings.chunk):
            stop = min(start + settings.chunk, count)
            x = split.take(slice(start, stop), bench.generator).to(bench.device)
            per_example[start:stop] = model.log_prob(x).detach().double().cpu().numpy()
            task.advance(stop - start)
    not_finite = int((~np.isfinite(per_example)).sum())
    if not_finite:
        raise CannotBeDone(f"log p(x) is not finite for {not_finite:,} of {count:,} {settings.split} examples.")
    return Estimates([Estimate("log_likelihood", float(per_example.mean()), per_example)])
