"""Two Gaussian densities on the real line, about 0 and about 1.

    r(zeta given z) = N(zeta; z, 1/beta),    R(zeta given z) = Phi(sqrt(beta) (zeta - z))
    R^-1(rho given z) = z + Phi^-1(rho) / sqrt(beta),    b(zeta) = beta (zeta - 1/2)

F has no inverse in closed form, only R has. As beta grows r(. given z) tends to a unit mass at z.

Source: DVAE# (Vahdat, Andriyash and Macready, NeurIPS 2018), section 3.3.
"""

import math

import torch
from torch import Tensor

from dgmbench.models.variational.smoothing.base import Smoothing, as_parameter


class Gaussian(Smoothing):
    """`beta` > 0, the precision of either density."""

    def __init__(self, beta: Tensor | float):
        self.beta = as_parameter(beta)

    def log_densities(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        log_top = 0.5 * torch.log(self.beta) - 0.5 * math.log(2 * math.pi)
        return log_top - 0.5 * self.beta * zeta**2, log_top - 0.5 * self.beta * (zeta - 1) ** 2

    def log_ratio(self, zeta: Tensor) -> Tensor:
        """beta (zeta - 1/2): the squares cancel."""
        return self.beta * (zeta - 0.5)

    def distributions(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        root = torch.sqrt(self.beta)
        return torch.special.ndtr(root * zeta), torch.special.ndtr(root * (zeta - 1))

    def draws(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """R^-1 of either density; numbers nearer to 0 or 1 than they can be told apart from it are moved there."""
        nearest = 0.5 * torch.finfo(uniform.dtype).eps
        deviation = torch.special.ndtri(uniform.clamp(nearest, 1 - nearest)) / torch.sqrt(self.beta)
        return deviation, 1 + deviation

    def clip(self, zeta: Tensor) -> Tensor:
        """All of the real line is support."""
        return zeta
