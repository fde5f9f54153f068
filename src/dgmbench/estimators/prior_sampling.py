"""The log-likelihood of a decoder by draws from its prior: the plain Monte Carlo estimate.

    p(x) = E[p(x given u)],  u from N(0, I);    log p(x) estimated by log (1/k) sum_j p(x given u_j)

The mean is unbiased for p(x), its logarithm too low in expectation (Jensen). Nearly all draws miss the few u that could
have made x, so that the error falls with k only when k is of the order of exp(KL(p(u given x) || p(u))).
All examples share the draws: one pass of the decoder serves them all.

Reference: the estimate that importance sampling improves upon: Owen, "Monte Carlo theory, methods and examples", 2013,
section 9.1; of decoders, Wu, Burda, Salakhutdinov and Grosse, "On the quantitative analysis of decoder-based
generative models", ICLR 2017, section 2.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._latents import table_rows
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Decoder

REQUIRES = Decoder
METRICS = {
    "log_likelihood": Metric(
        "nats", "lower-bound", "higher", "Mean log p(x) by draws from the prior; too low in expectation."
    )
}


class Settings(EstimatorSettings):
    k: int = Field(5000, ge=2, description="Draws from the prior, which all examples share.")
    tolerance: float = Field(0.1, gt=0, description="Largest gain from k/2 to k that counts as converged, nats.")


def scorings(settings: Settings, examples: int) -> float:
    return float(settings.k)


def estimate(model: Decoder, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """The mean of the logarithms over the split.

    `estimator_se` is the jackknife's over the shared draws, each left out in turn:

        se^2 = (k - 1)/k sum_j (L_(-j) - mean_j L_(-j))^2
        L_(-j) = mean_i log (1/(k - 1)) sum_(l != j) p(x_i given u_l)

    (Efron and Stein 1981: too large rather than too small in expectation). The delta method would be far too small
    here: where one draw carries an example, losing it costs many nats, and not one. None where some draw gives an
    example all of its probability. Converged means that the gain from the mean of two halves to the whole is below
    `tolerance`. ESS is (sum w)^2 / sum w^2 of each example's w_j = p(x given u_j).
    """
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator).to(bench.device)
    seed = bench.generator.get_state()
    halves = torch.full((2, len(x)), -torch.inf, dtype=torch.float64, device=x.device)
    squares = torch.full_like(halves[0], -torch.inf)
    largest = _Largest.of_none(halves[0])
    sizes = [settings.k - settings.k // 2, settings.k // 2]
    with bench.progress.task("draws from the prior", total=2 * settings.k, unit="draw") as task:
        for half, table in _tables(model, x, sizes, bench.generator):
            halves[half] = torch.logaddexp(halves[half], torch.logsumexp(table, 0))
            squares = torch.logaddexp(squares, torch.logsumexp(2 * table, 0))
            largest = largest.among(table)
            task.advance(len(table))
        log_sum = torch.logsumexp(halves, 0)
        if not bool(log_sum.isfinite().all()):
            raise CannotBeDone(f"none of {settings.k:,} draws from the prior gives some example any probability.")
        # The same draws again: what is left without each needs the sums, and the whole table need not fit the memory.
        bench.generator.set_state(seed)
        left_out, drawn = [], 0
        for _, table in _tables(model, x, sizes, bench.generator):
            # Without the largest draw the difference would cancel; any other's share of the sum is at most a half.
            change = torch.log1p(-torch.exp(table - log_sum))
            own = (largest.draw >= drawn) & (largest.draw < drawn + len(table))
            change[largest.draw[own] - drawn, own.nonzero()[:, 0]] = (largest.rest - log_sum)[own]
            left_out.append(change.mean(1))
            drawn += len(table)
            task.advance(len(table))
    changes = torch.cat(left_out)
    k = settings.k
    se = math.sqrt((k - 1) / k * float((changes - changes.mean()).square().sum())) if changes.isfinite().all() else None
    bound = (log_sum - math.log(k)).cpu().numpy()
    by_half = (halves - torch.tensor(sizes, device=x.device).log()[:, None]).mean().item()
    gain = float(bound.mean()) - by_half
    effective = torch.exp(2 * log_sum - squares).cpu().numpy()
    evidence = {
        "k": k,
        "effective_sample_size_mean": float(effective.mean()),
        "effective_sample_size_min": float(effective.min()),
        "gain_of_doubling": gain,
        "tolerance": settings.tolerance,
    }
    numbers = Estimate("log_likelihood", float(np.mean(bound)), bound, se, gain < settings.tolerance, evidence)
    return Estimates([numbers])


@dataclass(frozen=True)
class _Largest:
    """Of each of n examples' numbers so far: the largest, which draw gave it, and log sum exp of all others."""

    value: Tensor
    draw: Tensor
    rest: Tensor
    drawn: int

    @classmethod
    def of_none(cls, like: Tensor) -> "_Largest":
        none = torch.full_like(like, -torch.inf)
        return cls(none, torch.zeros_like(like, dtype=torch.int64), none, 0)

    def among(self, table: Tensor) -> "_Largest":
        """With (k, n) more numbers."""
        value, where = table.max(0)
        others = torch.logsumexp(table.scatter(0, where[None], -torch.inf), 0)
        smaller = torch.minimum(self.value, value)
        return _Largest(
            torch.maximum(self.value, value),
            torch.where(value > self.value, where + self.drawn, self.draw),
            torch.logsumexp(torch.stack([self.rest, others, smaller]), 0),
            self.drawn + len(table),
        )


def _tables(model: Decoder, x: Tensor, sizes: list[int], generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
    """log p(x given u) of fresh draws, chunk by chunk, and the half that a chunk belongs to: (k, n), float64."""
    rows = table_rows(len(x), x.shape[1])
    for half, size in enumerate(sizes):
        for start in range(0, size, rows):
            shape = (min(rows, size - start), model.latent_dimension)
            u = torch.randn(shape, generator=generator, dtype=torch.float32, device=x.device)
            yield half, model.log_prob_table(x, u).double()
