"""The log-likelihood of a decoder with one or two latent variables, by quadrature over them.

    p(x) = integral of N(u; 0, I) p(x given u) over u  ~  sum_j h^m N(u_j; 0, I) p(x given u_j),   u_j: a grid of step h

The trapezium rule on [-reach, reach]^m: for smooth integrands that vanish at the ends its error falls faster than any
power of h, once h is below their width. What is left out beyond the ends has prior mass 2 m (1 - Phi(reach)).

Reference: Trefethen and Weideman, "The exponentially convergent trapezoidal rule", SIAM Review 56(3), 2014, section 5;
as the truth that estimators are held against: Wu, Burda, Salakhutdinov and Grosse, "On the quantitative analysis of
decoder-based generative models", ICLR 2017, section 4.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._latents import log_sum, table_rows
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Decoder

REQUIRES = Decoder
METRICS = {
    "log_likelihood": Metric("nats", "estimate", "higher", "Mean log p(x) by quadrature over the latent variables.")
}
SMOKE = {"points": 61}
_MOST_LATENTS = 2


class Settings(EstimatorSettings):
    points: int = Field(501, ge=11, le=20_001, description="Grid points along each latent variable; odd.")
    reach: float = Field(6.0, gt=0, description="The grid covers [-reach, reach], in prior standard deviations.")
    tolerance: float = Field(
        0.01, gt=0, description="Largest difference of any example from a grid of twice the step, converged: nats."
    )


def scorings(settings: Settings, examples: int) -> float:
    return float(settings.points**_MOST_LATENTS)


def estimate(model: Decoder, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """The mean of log p(x) over the split.

    Converged means that no example's value differs by more than `tolerance` from that of every other grid point.

    Raises:
        CannotBeDone: more than two latent variables; an even number of points.
    """
    m = model.latent_dimension
    if m > _MOST_LATENTS:
        raise CannotBeDone(
            f"quadrature is for {_MOST_LATENTS} latent variables at the most, and this model has {m}: take "
            "importance_weighted or latent_ais."
        )
    if settings.points % 2 == 0:
        raise CannotBeDone(f"every other grid point must reach both ends: set points to {settings.points + 1}.")
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator).to(bench.device)
    found = []
    for points in (settings.points, settings.points // 2 + 1):
        axis = torch.linspace(-settings.reach, settings.reach, points, dtype=torch.float64, device=bench.device)
        found.append(log_sum(model, x, _grid(axis, m, table_rows(len(x), data.dimension))).cpu().numpy())
    fine, coarse = found
    if not np.isfinite(fine).all():
        raise CannotBeDone("some example has no probability on the grid: raise 'points'.")
    largest = float(np.abs(fine - coarse).max())
    evidence = {
        "points": settings.points**m,
        "largest_difference_from_coarser": largest,
        "coarser": float(coarse.mean()),
        "prior_mass_outside": m * math.erfc(settings.reach / math.sqrt(2)),
        "tolerance": settings.tolerance,
    }
    return Estimates(
        [Estimate("log_likelihood", float(fine.mean()), fine, 0.0, largest <= settings.tolerance, evidence)]
    )


def _grid(axis: Tensor, m: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Points of the grid and their log prior masses, at most `rows` at a time: (k, m), (k,)."""
    log_mass = m * (math.log(axis[1] - axis[0]) - 0.5 * math.log(2 * math.pi))
    for places in torch.arange(len(axis) ** m, device=axis.device).split(rows):
        u = torch.stack([axis[places // len(axis) ** i % len(axis)] for i in range(m)], 1)
        yield u, log_mass - 0.5 * u.square().sum(1)
