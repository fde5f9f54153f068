"""How sharp a smoothing of a binary variable is, and how noisy the gradients are that pass through it.

    zeta(rho, q) = F^-1(rho),    F(zeta) = (1 - q) R(zeta given 0) + q R(zeta given 1),    rho uniform on (0, 1)
    d zeta / d q = [R(zeta given 0) - R(zeta given 1)] / q(zeta)    at fixed rho
    gradient variance = Var_rho[d zeta / d q],    distance = E|zeta - z|,    z ~ Bernoulli(q), zeta ~ r(zeta given z)

The mean of the gradient is E[zeta given 1] - E[zeta given 0] whatever q is: what differs between smoothings that are
equally near to binary is its variance. Expectations are integrals over rho by the trapezium rule in t, on either side
of rho = 1 - q: rho = (1 - q) s(t) and (1 - q) + q s(t), s(t) = 1 / (1 + e^-t), which is dense at the step between the
two modes and at both ends. Smooth integrands fall off as e^-|t| and the rule converges exponentially; the distance on
the real line has corners at 0 and 1, and is good to five digits.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, equations 8 and 9 and figure 1; the rule: Trefethen and Weideman, "The exponentially convergent
trapezoidal rule", SIAM Review 56, 2014.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Smoothed
from dgmbench.models.variational.smoothing.base import Smoothing

REQUIRES = Smoothed
METRICS = {
    "gradient_variance": Metric(
        "no unit", "score", "lower", "Var[d zeta / d q] over uniform noise, at the largest beta"
    ),
    "distance": Metric("no unit", "score", "lower", "E|zeta - z|, how far from binary, at the largest beta"),
}
SMOKE: dict = {"points": 50}

_REACH = 36.0  # of t: s(-36) is the spacing of float64 at 1
_NODES = 6_001


class Settings(EstimatorSettings):
    q: float = Field(0.5, gt=0, lt=1, description="q(z = 1), the unit's probability of being on.")
    points: int = Field(500, ge=10, le=100_000, description="Points of the curves, evenly spaced in rho.")


def scorings(settings: Settings, examples: int) -> float:
    return float(settings.points + 2 * _NODES)


@dataclass(frozen=True)
class Moments:
    """Mean and variance of d zeta / d q, and E|zeta - z|."""

    mean: float
    variance: float
    distance: float


def estimate(model: Smoothed, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Both numbers at the sharpest smoothing.

    Arrays, one line for each beta: `betas` (b,), `zeta` and `gradient` (b, points) at `rho` (points,), and
    `gradient_variance` and `distance` (b,); `q` (1,).
    """
    smoothings = model.smoothings()
    rho = (torch.arange(settings.points, dtype=torch.float64, device=bench.device) + 0.5) / settings.points
    curves = [curve(one, rho, settings.q) for one in smoothings.values()]
    found = [moments(one, settings.q, bench.device) for one in smoothings.values()]
    sharpest = found[-1]
    evidence = {"beta": max(smoothings), "q": settings.q, "mean_gradient": sharpest.mean}
    return Estimates(
        [
            Estimate("gradient_variance", sharpest.variance, evidence=evidence),
            Estimate("distance", sharpest.distance, evidence=evidence),
        ],
        {
            "q": np.array([settings.q]),
            "betas": np.array(list(smoothings)),
            "rho": rho.cpu().numpy(),
            "zeta": torch.stack([zeta for zeta, _ in curves]).cpu().numpy(),
            "gradient": torch.stack([gradient for _, gradient in curves]).cpu().numpy(),
            "gradient_variance": np.array([one.variance for one in found]),
            "distance": np.array([one.distance for one in found]),
        },
    )


def curve(smoothing: Smoothing, rho: Tensor, q: float) -> tuple[Tensor, Tensor]:
    """zeta and d zeta / d q = (d zeta / d logit) / (q (1 - q)) at these rho: (p,) -> (p,), (p,)."""
    logits = torch.full_like(rho, math.log(q / (1 - q))).requires_grad_(True)
    with torch.enable_grad():
        zeta = smoothing.icdf(rho, logits)
        (slope,) = torch.autograd.grad(zeta.sum(), logits)
    return zeta.detach(), slope / (q * (1 - q))


def moments(smoothing: Smoothing, q: float, device: torch.device | str = "cpu") -> Moments:
    """The three expectations, by the rule of the module's docstring."""
    t = torch.linspace(-_REACH, _REACH, _NODES, dtype=torch.float64, device=device)
    inside = torch.sigmoid(t)
    length = inside * torch.sigmoid(-t) * (t[1] - t[0])
    rho = torch.cat([(1 - q) * inside, (1 - q) + q * inside]).clamp(max=1 - torch.finfo(t.dtype).eps)
    weight = torch.cat([(1 - q) * length, q * length])
    zeta, gradient = curve(smoothing, rho, q)
    on = torch.sigmoid(math.log(q / (1 - q)) + smoothing.log_ratio(zeta))  # P(z = 1 given zeta)
    mean = (weight * gradient).sum()
    variance = (weight * (gradient - mean).square()).sum()
    distance = (weight * ((1 - on) * zeta.abs() + on * (1 - zeta).abs())).sum()
    return Moments(mean.item(), variance.item(), distance.item())
