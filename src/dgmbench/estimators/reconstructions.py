"""Examples after a few Gibbs steps of the model that start at them, and the receptive fields of its hidden units.

    cross-entropy = -(1/n) sum_n sum_i x_i log p_i + (1 - x_i) log(1 - p_i),   p: pixels' means in the last Gibbs step

A chain that stays near its example forgets slowly, and so scores well: this says how fast the model mixes and what it
keeps of an image, never how likely the image is.

Reference: Baumann, "An introduction to deep generative models", 2018, figures 3 and 6. Receptive fields: Hinton, "A
practical guide to training restricted Boltzmann machines", 2012, section 15.
"""

import math

import numpy as np
import torch
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench, evenly_spaced
from dgmbench.models.base import Reconstruction

REQUIRES = Reconstruction
METRICS = {
    "reconstruction_cross_entropy": Metric(
        "nats", "score", "lower", "Mean cross-entropy of an example and the pixels' means after a few Gibbs steps."
    )
}

_LEAST = 1e-7  # probability that a mean rounded to 0 or 1 in float32 is taken for


class Settings(EstimatorSettings):
    steps: int = Field(5, ge=1, description="Gibbs steps from each example.")
    chains: int = Field(2, ge=2, description="Independent chains from each example, which the error is told from.")
    count: int = Field(25, ge=1, description="Examples in the picture.")
    fields: int = Field(64, ge=1, description="Receptive fields in the picture: of the first hidden units.")


def scorings(settings: Settings, examples: int) -> float:
    return 2.0 * settings.steps * settings.chains * examples


def estimate(model: Reconstruction, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """The mean cross-entropy, with its Monte Carlo error over chains.

    Arrays: `inputs` and `reconstructions` (count, d), examples evenly spaced over the split and the means of their
    first chains; `fields` (m, d), weights between the pixels and each of the first hidden units; `steps` (1,).
    """
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator).to(bench.device)
    found, first = [], None
    with bench.progress.task("Gibbs steps", total=settings.chains, unit="chain") as task:
        for _ in range(settings.chains):
            mean = model.reconstruct(x, settings.steps, bench.generator)
            first = mean if first is None else first
            p = mean.double().clamp(_LEAST, 1 - _LEAST)
            found.append(-(torch.xlogy(x, p) + torch.xlogy(1 - x, 1 - p)).sum(1))
            task.advance()
    scores = torch.stack(found)
    per_example = scores.mean(0).cpu().numpy()
    se = math.sqrt(float((scores.var(0) / settings.chains).sum())) / len(x)
    rows = torch.from_numpy(evenly_spaced(settings.count, len(x))).to(x.device)
    arrays = {"inputs": x[rows], "reconstructions": first[rows], "fields": model.filters()[: settings.fields]}
    shown = {name: array.detach().float().cpu().numpy() for name, array in arrays.items()}
    return Estimates(
        [Estimate("reconstruction_cross_entropy", float(per_example.mean()), per_example, se)],
        {name: np.ascontiguousarray(array) for name, array in shown.items()} | {"steps": np.array([settings.steps])},
    )
