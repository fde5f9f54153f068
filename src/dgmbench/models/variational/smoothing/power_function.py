"""Two power-function densities on [0, 1], facing each other: Beta(1/beta, 1) and Beta(1, 1/beta).

    r(zeta given 0) = zeta^(1/beta - 1) / beta,    r(zeta given 1) = r(1 - zeta given 0)
    R(zeta given 0) = zeta^(1/beta),    R^-1(rho given 0) = rho^beta
    b(zeta) = (1/beta - 1) [log(1 - zeta) - log zeta]

F has no inverse in closed form, only R has. As beta grows r(. given z) tends to a unit mass at z, slowly: the mass
within delta of z is delta^(1/beta). At beta = 1 both are uniform.

Source: equation 10 of DVAE# (Vahdat, Andriyash and Macready, NeurIPS 2018). The authors' code has zeta + 1e-7 in r and
R, which then do not quite integrate to one; here the density is exact and draws keep away from 0 and 1 (`clip`).
"""

import torch
from torch import Tensor

from dgmbench.models.variational.smoothing.base import Smoothing, as_parameter


class PowerFunction(Smoothing):
    """`beta` > 1, the inverse temperature; densities are for zeta in the open interval (0, 1)."""

    def __init__(self, beta: Tensor | float):
        self.beta = as_parameter(beta)

    def log_densities(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        power, log_beta = 1 / self.beta - 1, torch.log(self.beta)
        return power * torch.log(zeta) - log_beta, power * torch.log1p(-zeta) - log_beta

    def distributions(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        return torch.exp(torch.log(zeta) / self.beta), -torch.expm1(torch.log1p(-zeta) / self.beta)

    def draws(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """R^-1 of either density."""
        return uniform**self.beta, 1 - (1 - uniform) ** self.beta
