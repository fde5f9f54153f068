"""Importance-weighted lower bound on the log-likelihood of a latent-variable model.

    L_k(x) = E[log (1/k) sum_i w_i],   w_i = p(x, z_i) / q(z_i given x),   z_1, ..., z_k from q(. given x)
    ELBO = L_1 <= L_k <= L_{k+1} <= log p(x)

Reference: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, section 3 and
theorem 1.
"""

import math

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import LatentVariable


class Settings(EstimatorSettings):
    k: int = Field(5000, ge=1, description="Importance samples for each example.")
    rows_per_call: int = Field(
        1000,
        ge=1,
        description="The most latent samples drawn at once. It bounds the memory (1,000 rows of 784 float32 are "
        "3 MB an array) and sets the order in which random numbers are used, hence the last digits, but not "
        "the estimator: every example has its own k draws.",
    )
    tolerance: float = Field(0.1, gt=0, description="Largest gain from k/2 to k that counts as converged, nats.")


REQUIRES = LatentVariable
METRICS = {
    "log_likelihood": Metric(
        "nats", "lower-bound", "higher", "Importance-weighted lower bound L_k on the mean log p(x)."
    )
}


def scorings(settings: Settings, examples: int) -> float:
    return float(settings.k) * examples


def estimate(model: LatentVariable, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """The mean of L_k over the split.

    `estimator_se` is the Monte Carlo error of that mean, from the jackknife over the k draws of each example; one draw
    cannot tell its own spread, so that it is None for k = 1. Converged means that L_k - L_{k/2}, from the same draws,
    is below `tolerance`; for k = 1 the question is open and the answer None. Weights with a heavy tail can pass that
    test far below log p(x), for what is rare is in neither half: the evidence has their ESS, (sum w)^2 / sum w^2.
    """
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator).to(bench.device)
    k, size = settings.k, max(1, settings.rows_per_call // settings.k)
    fewer = {name: max(1, k // share) for name, share in (("half", 2), ("tenth", 10))}
    # Filled in place: thousands of small tensors kept between large ones would fragment the memory into gigabytes.
    columns = np.empty((5, len(x)))
    with bench.progress.task("importance samples", total=len(x), unit="example") as task:
        for start in range(0, len(x), size):
            log_weights = log_weights_in_pieces(model, x[start : start + size], settings, bench.generator)
            columns[:, start : start + size] = [
                log_mean_exp(log_weights).cpu().numpy(),
                *(bound_of_groups(log_weights, draws).cpu().numpy() for draws in fewer.values()),
                effective_sample_size(log_weights).cpu().numpy(),
                jackknife_variance(log_weights).cpu().numpy(),
            ]
            task.advance(min(size, len(x) - start))
    bound, half, tenth, effective, variance = columns
    if not np.isfinite(bound).all():
        raise CannotBeDone("importance weights are not finite: the model gives some example no probability")

    gain = float(bound.mean() - half.mean())
    evidence = {
        "k": k,
        "effective_sample_size_mean": float(effective.mean()),
        "effective_sample_size_min": float(effective.min()),
        f"bound_k_{fewer['half']}": float(half.mean()),
        f"bound_k_{fewer['tenth']}": float(tenth.mean()),
        "gain_of_doubling": gain,
        "tolerance": settings.tolerance,
    }
    se = math.sqrt(variance.sum()) / len(bound) if k > 1 else None
    converged = gain < settings.tolerance if k > 1 else None
    return Estimates([Estimate("log_likelihood", float(bound.mean()), bound, se, converged, evidence)])


def log_weights_in_pieces(model: LatentVariable, x: Tensor, settings: Settings, generator: torch.Generator) -> Tensor:
    """(k, n) in float64, drawn in pieces of at most `rows_per_call` latent samples (but one draw at the least)."""
    draws = max(1, settings.rows_per_call // len(x))
    pieces = []
    with torch.no_grad():
        for start in range(0, settings.k, draws):
            pieces.append(model.log_weights(x, min(draws, settings.k - start), generator).double())
    return torch.cat(pieces)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log of the mean over the first axis: (k, ...) -> (...)."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def bound_of_groups(log_weights: Tensor, k: int) -> Tensor:
    """L_k from more than k draws: the mean over disjoint groups of k, any rest left out: (K, n) -> (n,)."""
    groups = len(log_weights) // k
    return log_mean_exp(log_weights[: groups * k].unflatten(0, (groups, k)).transpose(0, 1)).mean(0)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2, between 1 and k: (k, n) -> (n,)."""
    return torch.exp(2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0))


def jackknife_variance(log_weights: Tensor) -> Tensor:
    """Variance of L = log mean w by leaving out each draw in turn: (k, n) -> (n,).

    (k - 1)/k sum_j (L_(-j) - mean_j L_(-j))^2;
    Efron and Stein 1981: too large rather than too small in expectation. Zero for k = 1, where it says nothing.
    """
    k = len(log_weights)
    if k == 1:
        return torch.zeros_like(log_weights[0])
    top, where = log_weights.max(0)
    weights = torch.exp(log_weights - top)
    rest = weights.sum(0) - weights
    # Where one draw carries nearly all the weight, the difference above cancels: what it leaves is summed anew.
    rest.scatter_(0, where[None], weights.scatter(0, where[None], 0.0).sum(0, keepdim=True))
    left_out = torch.log(rest.clamp(min=torch.finfo(rest.dtype).tiny))
    return (k - 1) / k * (left_out - left_out.mean(0)).square().sum(0)
