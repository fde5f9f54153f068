"""Moments, Cholesky factors and Gaussian log-densities, in float64 and in bounded memory."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from dgmbench.data.prepared import Split
from dgmbench.errors import CannotBeDone

# A direction whose variance is below this share of the largest is rounding: float32 data that obey an exact
# linear relation keep about (2^-24)^2 of variance in the direction that it removes.
SINGULAR = 1e-13

_ELEMENTS_AT_ONCE = 1 << 21


def chunk_rows(dimension: int) -> int:
    """How many examples are held at once as float64: about 16 MB of them."""
    return max(1, _ELEMENTS_AT_ONCE // dimension)


def chunks(split: Split, device: torch.device, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """All examples of a split, in order, as float64: (m, d) at a time."""
    rows = chunk_rows(split.x[:1].size)
    for start in range(0, len(split), rows):
        yield split.take(slice(start, start + rows), generator).to(device).double()


def mean_and_covariance(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Maximum-likelihood moments, mean first and then the centred products: (d,), (d, d), float64.

    Raises:
        CannotBeDone: where a value is not a finite number.
    """
    mean = sum(chunk.sum(0) for chunk in chunks(split, device)) / len(split)
    if not bool(mean.isfinite().all()):
        raise CannotBeDone("some values of the data are not finite numbers: replace them, or leave those examples out.")
    products = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=device)
    for chunk in chunks(split, device):
        centred = chunk - mean
        products.addmm_(centred.T, centred)
    return mean, products / len(split)


def cholesky_factor(covariance: Tensor, what: str) -> Tensor:
    """Lower L with L L^T = covariance: (d, d) -> (d, d).

    Raises:
        CannotBeDone: where the covariance is singular to the precision of float32 data.
    """
    eigenvalues = torch.linalg.eigvalsh(covariance)
    if not eigenvalues[0] > SINGULAR * eigenvalues[-1]:
        advice = max(1e-6 * float(eigenvalues.mean()), 1e-12)
        raise CannotBeDone(
            f"the covariance of {what} is singular (its eigenvalues run from {eigenvalues[0]:.3g} to "
            f"{eigenvalues[-1]:.3g}): set ridge to about {advice:.1g} or more."
        )
    return torch.linalg.cholesky(covariance)


def log_normal(x: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """log N(x; mean, L L^T) = -|L^-1 (x - mean)|^2 / 2 - log |L| - d/2 log 2 pi: (n, d) -> (n,), nats."""
    whitened = torch.linalg.solve_triangular(factor, (x - mean).T, upper=False)
    log_volume = factor.diagonal().log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)
    return -0.5 * whitened.square().sum(0) - log_volume
