"""A model whose log p*(x) cannot be summed, as one whose log p*(x) is its lower bound: what needs log Z works on it.

    bound(x) = mean_k of k draws of the bound (or its closed form),    estimate(x) = log (1/k) sum_k w_k

By Jensen the estimate is below log p*(x) in expectation, by about var(w) / (2 k E[w]^2), and with k / 2 draws by twice
as much: what it gains from k / 2 to k is about what it still lacks, and less than that where weights have heavy tails.

A unit whose probability of being on rounds to 1 (or 0) may still be drawn off (on), once in some ten million draws: q
as it is written then has no such draw, and w is infinite. Such draws are left out and counted. Their true weight, and
with it the bias, is of the order of their frequency.

Reference: Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008, section 4.
"""

import math

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Workbench
from dgmbench.estimators.importance_weighted import (
    bound_of_groups,
    effective_sample_size,
    jackknife_variance,
    log_mean_exp,
)
from dgmbench.models.base import AnnealedPath, Energy, Enumeration, VariationalBound


class Draws(EstimatorSettings):
    """How the posterior q(h given x) is drawn from."""

    k: int = Field(100, ge=2, description="Draws of q(h given x) for each example.")
    rows_per_call: int = Field(
        5000,
        ge=1,
        description="The most draws made at once. It bounds the memory and sets the order in which random numbers are "
        "used, but not the estimator.",
    )
    gain_tolerance: float = Field(
        0.1,
        gt=0,
        description="Largest gain of the mean estimate of log p(x) from k / 2 to k draws that is converged, nats.",
    )


_MOST_LEFT_OUT = 1e-3  # share of draws that q as written cannot give, beyond which it is not what was drawn from


class BoundAsEnergy(Energy):
    """`log_unnormalised` is the bound; what the last call found beside it is kept: `estimated` log p*(x), (n,), the
    Monte Carlo variances of both, the mean effective sample size, the estimate's mean `gain` from k / 2 to k, and how
    many draws were `left_out`."""

    def __init__(self, model: VariationalBound, draws: Draws, bench: Workbench):
        self.model, self.draws, self.bench = model, draws, bench

    def annealed_path(self, data: Dataset) -> AnnealedPath:
        return self.model.annealed_path(data)

    def enumeration(self) -> Enumeration:
        return self.model.enumeration()

    def log_unnormalised(self, x: Tensor) -> Tensor:
        k, generator = self.draws.k, self.bench.generator
        size = max(1, self.draws.rows_per_call // k)
        columns = torch.empty(6, len(x), dtype=torch.float64, device=x.device)
        self.left_out = 0
        with self.bench.progress.task("draws of the posterior", total=len(x), unit="example") as task:
            for start in range(0, len(x), size):
                part = slice(start, start + size)
                log_weights = self.model.log_weights_unnormalised(x[part], k, generator)
                impossible = log_weights == math.inf
                self.left_out += int(impossible.sum())
                log_weights = log_weights.masked_fill(impossible, -math.inf)
                bounds = self.model.bound_unnormalised(x[part], k, generator)
                spread = bounds.var(0) / len(bounds) if len(bounds) > 1 else torch.zeros_like(bounds[0])
                found = [bounds.mean(0), log_mean_exp(log_weights), spread, jackknife_variance(log_weights)]
                half = bound_of_groups(log_weights, max(1, k // 2))
                columns[:, part] = torch.stack([*found, effective_sample_size(log_weights), half])
                task.advance(len(x[part]))
        if not bool(columns[:2].isfinite().all()) or self.left_out > _MOST_LEFT_OUT * k * len(x):
            raise CannotBeDone("importance weights are not finite: the model gives some example no probability")
        bound, self.estimated, self.bound_variance, self.estimate_variance, effective, half = columns
        self.effective_sample_size = float(effective.mean())
        self.gain = float((self.estimated - half).mean())
        return bound


def with_estimate(found: Estimates, energy: BoundAsEnergy) -> Estimates:
    """An estimator's log Z and mean bound, and the mean of log p(x) by importance sampling with the same log Z.

    Standard errors add in squares: of log Z, and of the draws of q. The bound is converged as log Z is; the estimate
    where, besides, it gains at most `gain_tolerance` from k / 2 to k draws.
    """
    log_z, bound = found.numbers
    k, tolerance = energy.draws.k, energy.draws.gain_tolerance
    evidence = {
        "k": k,
        "effective_sample_size_of_the_posterior_mean": energy.effective_sample_size,
        "gain_of_doubling": energy.gain,
        "gain_tolerance": tolerance,
        "draws_left_out": energy.left_out,
    }
    per_example, enough = (energy.estimated - log_z.value).cpu().numpy(), energy.gain <= tolerance
    reasons = [log_z.evidence.get("not_converged_because"), None if enough else "too few draws of the posterior"]
    because = "; ".join(filter(None, reasons)) or None
    numbers = [log_z]
    for metric, values, variance, converged, more in (
        ("bound", bound.per_example, energy.bound_variance, log_z.converged, {}),
        (
            "log_likelihood",
            per_example,
            energy.estimate_variance,
            enough and log_z.converged is not False,
            {"not_converged_because": because},
        ),
    ):
        se = math.hypot(log_z.estimator_se or 0.0, math.sqrt(float(variance.sum())) / len(variance))
        mean = float(np.mean(values))
        numbers.append(Estimate(metric, mean, values, se, converged, {**log_z.evidence, **evidence, **more}))
    return Estimates(numbers, found.arrays)
