"""Samples from a model, for people to look at: no number.

    x_1 ... x_count ~ p(x)

Reference: what samples can and cannot say about a model: Theis, van den Oord and Bethge, "A note on the evaluation of
generative models", ICLR 2016, section 3.2.
"""

import numpy as np
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.estimators.base import Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Sampler

REQUIRES = Sampler
METRICS: dict[str, Metric] = {}


class Settings(EstimatorSettings):
    count: int = Field(64, ge=1, description="How many samples are drawn.")


def estimate(model: Sampler, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """The first samples drawn, none of them chosen: array `samples` (count, d), float32."""
    samples = model.sample(settings.count, bench.generator).detach().float().cpu().numpy()
    return Estimates([], {"samples": np.ascontiguousarray(samples)})
