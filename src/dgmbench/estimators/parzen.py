"""Log-likelihood of a Parzen window around model samples.

    log p_h(x) = log (1/S) sum_j exp(-|x - s_j|^2 / (2 h^2)) - d/2 log(2 pi h^2),   s_1 ... s_S ~ model

with the bandwidth h that scores best on the validation split, from a logarithmic grid. It is the likelihood of the
window, not of the model: a protocol with a fixed number of samples, comparable within itself only, that memory and
k-means centroids win (controls `training_set` and `kmeans`).

Reference: Breuleux, Bengio and Vincent, "Quickly generating representative samples from an RBM-derived process",
Neural Computation 23(8), 2011, section 5; the grid: Goodfellow et al., "Generative adversarial nets", NeurIPS 2014,
section 5; its failures: Theis, van den Oord and Bethge, "A note on the evaluation of generative models", ICLR 2016,
section 3.3 and table 1.
"""

import math

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Sampler
from dgmbench.progress import Task

REQUIRES = Sampler
METRICS = {
    "parzen_log_likelihood": Metric("nats", "parzen", "higher", "mean log p_h(x) of a Gaussian window around samples")
}

_BLOCKS = 10
_EXAMPLES_AT_ONCE = 500


class Settings(EstimatorSettings):
    samples: int = Field(10_000, ge=2 * _BLOCKS, description="Model samples in the window.")
    bandwidth_low: float = Field(0.1, gt=0, description="Least bandwidth of the grid, in the data's units.")
    bandwidth_high: float = Field(1.0, gt=0, description="Largest bandwidth of the grid, in the data's units.")
    bandwidth_count: int = Field(10, ge=3, description="Bandwidths of the grid, evenly spaced in their logarithm.")
    validation_examples: int = Field(1000, ge=1, description="The bandwidth is chosen on the first so many.")

    @model_validator(mode="after")
    def _grid_grows(self) -> "Settings":
        if self.bandwidth_low >= self.bandwidth_high:
            raise ValueError(
                f"bandwidth_low = {self.bandwidth_low:g} is not below bandwidth_high = {self.bandwidth_high:g}"
            )
        return self


def estimate(model: Sampler, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Choose the bandwidth on validation, score the split; the test split never sees the choice.

    `estimator_se` is the jackknife over ten blocks of samples at the chosen bandwidth: the error due to which S
    samples were drawn, not the (larger) bias due to S being finite, of which `value_with_half_the_samples` tells.
    `converged` is False where the best bandwidth lies at the border of the grid and None elsewhere: a window with a
    fixed number of samples is a protocol, that does not approach the model's likelihood.

    Raises:
        CannotBeDone: where a sample is not finite.
    """
    samples = model.sample(settings.samples, bench.generator).detach().double()
    if not bool(samples.isfinite().all()):
        raise CannotBeDone("some of the model's samples are not finite.")
    bandwidths = np.geomspace(settings.bandwidth_low, settings.bandwidth_high, settings.bandwidth_count)
    split = data.splits[settings.split]
    count = min(settings.examples or len(split), len(split))
    tuning = min(settings.validation_examples, len(data.validation))

    with bench.progress.task("Parzen window", total=tuning + count, unit="example") as task:
        x = data.validation.take(slice(0, tuning), bench.generator).to(samples)
        curve = _block_log_sums(x, samples, bandwidths, task).logsumexp(1).mean(1) - math.log(settings.samples)
        curve = curve.cpu().numpy() + _log_normalizer(samples.shape[1], bandwidths)
        best = int(curve.argmax())
        x = split.take(slice(0, count), bench.generator).to(samples)
        blocks = _block_log_sums(x, samples, bandwidths[best : best + 1], task)[0]

    normalizer = float(_log_normalizer(samples.shape[1], bandwidths[best]))
    sizes = torch.tensor([len(block) for block in samples.tensor_split(_BLOCKS)], dtype=torch.float64)

    def window(kept: list[int]) -> Tensor:
        return blocks[kept].logsumexp(0) - math.log(float(sizes[kept].sum())) + normalizer

    everything = list(range(_BLOCKS))
    per_example = window(everything).cpu().numpy()
    left_out = torch.stack([window([b for b in everything if b != out]).mean() for out in everything])
    jackknife = math.sqrt((_BLOCKS - 1) * float(left_out.var(correction=0)))
    at_border = best in (0, len(bandwidths) - 1)
    evidence = {
        "bandwidth": float(bandwidths[best]),
        "validation_curve": [[float(h), float(value)] for h, value in zip(bandwidths, curve, strict=True)],
        "validation_examples": tuning,
        "samples": settings.samples,
        "value_with_half_the_samples": float(window(everything[: _BLOCKS // 2]).mean()),
    }
    if at_border:
        evidence["reason"] = f"the best bandwidth {bandwidths[best]:.3g} is the grid's " + (
            "least: lower bandwidth_low." if best == 0 else "largest: raise bandwidth_high."
        )
    value = float(per_example.mean())
    converged = False if at_border else None
    return Estimates([Estimate("parzen_log_likelihood", value, per_example, jackknife, converged, evidence)])


def _log_normalizer(dimension: int, bandwidth: np.ndarray | float) -> np.ndarray | float:
    """-d/2 log(2 pi h^2), nats."""
    return -0.5 * dimension * np.log(2 * np.pi * np.square(bandwidth))


def _block_log_sums(x: Tensor, samples: Tensor, bandwidths: np.ndarray, task: Task) -> Tensor:
    """log sum_{j in block} exp(-|x - s_j|^2 / (2 h^2)): (n, d), (S, d), (m,) -> (m, blocks, n).

    Float64 and a common origin: |x|^2 + |s|^2 - 2 x.s cancels, and is divided by a small h^2.
    """
    origin = samples.mean(0)
    centred = samples - origin
    squares = centred.square().sum(1)
    sums = torch.empty(len(bandwidths), _BLOCKS, len(x), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), _EXAMPLES_AT_ONCE):
        part = x[start : start + _EXAMPLES_AT_ONCE] - origin
        distances = torch.addmm(squares, part, centred.T, alpha=-2.0).add_(part.square().sum(1)[:, None]).clamp_(min=0)
        for row, bandwidth in enumerate(bandwidths):
            for block, own in enumerate(distances.tensor_split(_BLOCKS, dim=1)):
                exponents = own / (-2 * float(bandwidth) ** 2)
                sums[row, block, start : start + len(part)] = exponents.logsumexp(1)
        task.advance(len(part))
    return sums
