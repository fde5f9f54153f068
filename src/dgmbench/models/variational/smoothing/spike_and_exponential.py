"""A unit mass at 0 for z = 0, an exponential density on (0, 1] for z = 1: the smoothing of the discrete VAE.

    r(zeta given 0) = delta(zeta),    r(zeta given 1) = beta e^(beta (zeta - 1)) / (1 - e^-beta)
    R(zeta given 0) = 1,    R(zeta given 1) = (e^(-beta (1 - zeta)) - e^-beta) / (1 - e^-beta)
    F^-1(rho) = 0 where rho <= 1 - q, else 1 + log(1 - (1 - e^-beta) (1 - rho) / q) / beta

Densities are with respect to the unit mass at 0 plus the length on (0, 1]: at zeta = 0 they are probabilities. As
beta grows r(. given 1) tends to a unit mass at 1. The two supports are disjoint: zeta tells z, so that no
overlapping relaxation of a prior exists and the entropy of z given zeta is zero.

Source: equation 1, left, of DVAE# (Vahdat, Andriyash and Macready, NeurIPS 2018); Rolfe, "Discrete variational
autoencoders", ICLR 2017. Their code moves q into [1e-7, 1 - 1e-7] first; with logits nothing needs to be moved.
"""

import math

import torch
from torch import Tensor

from dgmbench.models.variational.smoothing.base import Smoothing, as_parameter
from dgmbench.models.variational.smoothing.exponential import Exponential


class SpikeAndExponential(Smoothing):
    """`beta` > 0, the inverse temperature of the exponential density."""

    overlapping = False

    def __init__(self, beta: Tensor | float):
        self.beta = as_parameter(beta)
        self.exponential = Exponential(self.beta)

    def log_densities(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        spike, on = zeta == 0, self.exponential.log_densities(zeta)[1]
        nothing = torch.full_like(on, -math.inf)
        return torch.where(spike, torch.zeros_like(on), nothing), torch.where(spike, nothing, on)

    def distributions(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        on = self.exponential.distributions(zeta)[1]
        return torch.ones_like(on), on

    def draws(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """0, and R^-1 of the exponential density, which must not round to the 0 that means z = 0."""
        on = self.exponential.draws(uniform)[1].clamp(min=torch.finfo(uniform.dtype).eps)
        return torch.zeros_like(on), on

    def clip(self, zeta: Tensor) -> Tensor:
        """0 is a value of its own; the density is finite at 1."""
        return zeta.clamp(0, 1)

    def quantile(self, rho: Tensor, logits: Tensor) -> Tensor:
        share = (1 - rho) / torch.sigmoid(logits)
        return torch.where(share < 1, self.draws((1 - share).clamp(min=0))[1], torch.zeros_like(share))

    def reparametrise(self, zeta: Tensor, logits: Tensor) -> Tensor:
        """At the mass of 0 zeta does not move, elsewhere d zeta / d logit = (1 - q) (1 - R) / r (given 1)."""
        return torch.where(zeta > 0, super().reparametrise(zeta, logits), zeta)
