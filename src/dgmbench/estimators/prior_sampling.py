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

    `estimator_se` is the delta method's over the shared draws: sd_j(c_j) / sqrt(k), with c_j the mean over examples of
    p(x given u_j) / mean_i p(x given u_i). Converged means that the gain from the mean of two halves to the whole is
    below `tolerance`. ESS is (sum w)^2 / sum w^2 of each example's w_j = p(x given u_j).
    """
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator).to(bench.device)
    seed = bench.generator.get_state()
    halves = torch.full((2, len(x)), -torch.inf, dtype=torch.float64, device=x.device)
    squares = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
    sizes = [settings.k - settings.k // 2, settings.k // 2]
    with bench.progress.task("draws from the prior", total=2 * settings.k, unit="draw") as task:
        for half, table in _tables(model, x, sizes, bench.generator):
            halves[half] = torch.logaddexp(halves[half], torch.logsumexp(table, 0))
            squares = torch.logaddexp(squares, torch.logsumexp(2 * table, 0))
            task.advance(len(table))
        log_sum = torch.logsumexp(halves, 0)
        if not bool(log_sum.isfinite().all()):
            raise CannotBeDone(f"none of {settings.k:,} draws from the prior gives some example any probability.")
        log_mean = log_sum - math.log(settings.k)
        # The same draws again: c_j needs the means, and the whole table need not fit the memory.
        bench.generator.set_state(seed)
        contributions = []
        for _, table in _tables(model, x, sizes, bench.generator):
            contributions.append(torch.exp(table - log_mean).mean(1))
            task.advance(len(table))
    se = float(torch.cat(contributions).std()) / math.sqrt(settings.k)
    bound = log_mean.cpu().numpy()
    by_half = (halves - torch.tensor(sizes, device=x.device).log()[:, None]).mean().item()
    gain = float(bound.mean()) - by_half
    effective = torch.exp(2 * log_sum - squares).cpu().numpy()
    evidence = {
        "k": settings.k,
        "effective_sample_size_mean": float(effective.mean()),
        "effective_sample_size_min": float(effective.min()),
        "gain_of_doubling": gain,
        "tolerance": settings.tolerance,
    }
    numbers = Estimate("log_likelihood", float(np.mean(bound)), bound, se, gain < settings.tolerance, evidence)
    return Estimates([numbers])


def _tables(model: Decoder, x: Tensor, sizes: list[int], generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
    """log p(x given u) of fresh draws, chunk by chunk, and the half that a chunk belongs to: (k, n), float64."""
    rows = table_rows(len(x), x.shape[1])
    for half, size in enumerate(sizes):
        for start in range(0, size, rows):
            shape = (min(rows, size - start), model.latent_dimension)
            u = torch.randn(shape, generator=generator, dtype=torch.float32, device=x.device)
            yield half, model.log_prob_table(x, u).double()
