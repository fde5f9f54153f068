"""Two exponential densities on [0, 1], facing each other.

    r(zeta given 0) = beta e^(-beta zeta) / Z,    r(zeta given 1) = r(1 - zeta given 0),    Z = 1 - e^-beta
    R(zeta given 0) = (1 - e^(-beta zeta)) / Z,    R^-1(rho given 0) = -log(1 - Z rho) / beta
    b(zeta) = log r(zeta given 1) - log r(zeta given 0) = beta (2 zeta - 1)

With m = e^(beta zeta), F(zeta) = rho is q e^-beta m^2 + B m - (1 - q) = 0, B = (1 - q) - rho + e^-beta (rho - q), whose
positive root is the inverse of the mixture. As beta grows r(. given z) tends to a unit mass at z, hence zeta to a
Bernoulli variable of mean q; as beta tends to 0 both densities tend to the uniform one.

Source: equation 1, right, of DVAE# (Vahdat, Andriyash and Macready, NeurIPS 2018), from DVAE++ (Vahdat et al., ICML
2018), where Z_beta is Z / beta.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dgmbench.models.variational.smoothing.base import Smoothing, as_parameter


class Exponential(Smoothing):
    """`beta` > 0, the inverse temperature."""

    def __init__(self, beta: Tensor | float):
        self.beta = as_parameter(beta)

    def log_densities(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        log_top = torch.log(self.beta) - torch.log(-torch.expm1(-self.beta))
        return log_top - self.beta * zeta, log_top - self.beta * (1 - zeta)

    def distributions(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        mass = torch.expm1(-self.beta)
        return torch.expm1(-self.beta * zeta) / mass, 1 - torch.expm1(-self.beta * (1 - zeta)) / mass

    def draws(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """R^-1 of either density."""
        mass = torch.expm1(-self.beta)
        return -torch.log1p(mass * uniform) / self.beta, 1 + torch.log1p(mass * (1 - uniform)) / self.beta

    def quantile(self, rho: Tensor, logits: Tensor) -> Tensor:
        """log(m) / beta: of the two forms of the root the one without cancellation, q e^-beta as a logarithm."""
        log_off, log_on = F.logsigmoid(-logits), F.logsigmoid(logits)
        linear = log_off.exp() - rho + torch.exp(-self.beta) * (rho - log_on.exp())
        root = torch.sqrt(linear**2 + 4 * torch.exp(log_off + log_on - self.beta))
        log_sum = torch.log(linear.abs() + root) - math.log(2)
        return torch.where(linear > 0, log_off - log_sum, log_sum - log_on + self.beta) / self.beta
