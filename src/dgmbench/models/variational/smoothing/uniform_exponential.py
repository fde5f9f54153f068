"""Exponential densities on [0, 1] mixed with the uniform one, whose gradients stay finite as beta grows.

    r(zeta given z) = (1 - epsilon) r_exp(zeta given z) + epsilon
    R(zeta given z) = (1 - epsilon) R_exp(zeta given z) + epsilon zeta

Neither R nor F has an inverse in closed form: R^-1_exp(rho given 0) <= zeta <= R^-1_exp(rho given 1) brackets it, since
R_exp(zeta given 0) >= zeta >= R_exp(zeta given 1). Draws are exact nevertheless: the uniform density with probability
epsilon, else the exponential one. As beta grows zeta tends to (1 - epsilon) Bernoulli(q) + epsilon uniform, not to a
Bernoulli variable; with epsilon of 0.05, as published, a twentieth of all zeta are noise.

Source: DVAE# (Vahdat, Andriyash and Macready, NeurIPS 2018), section 3.3.
"""

import torch
from torch import Tensor

from dgmbench.models.variational.smoothing.base import Smoothing, as_parameter
from dgmbench.models.variational.smoothing.exponential import Exponential


class UniformExponential(Smoothing):
    """`beta` > 0, the inverse temperature; 0 < `epsilon` < 1, the weight of the uniform density."""

    def __init__(self, beta: Tensor | float, epsilon: Tensor | float = 0.05):
        self.exponential, self.epsilon = Exponential(beta), as_parameter(epsilon)

    def log_densities(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        off, on = self.exponential.log_densities(zeta)
        log_rest, log_epsilon = torch.log1p(-self.epsilon), torch.log(self.epsilon)
        return torch.logaddexp(log_rest + off, log_epsilon), torch.logaddexp(log_rest + on, log_epsilon)

    def distributions(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        off, on = self.exponential.distributions(zeta)
        return off + self.epsilon * (zeta - off), on + self.epsilon * (zeta - on)

    def draws(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """u / epsilon where u < epsilon, else the exponential's draw of (u - epsilon) / (1 - epsilon)."""
        flat = uniform < self.epsilon
        off, on = self.exponential.draws(((uniform - self.epsilon) / (1 - self.epsilon)).clamp(min=0))
        return torch.where(flat, uniform / self.epsilon, off), torch.where(flat, uniform / self.epsilon, on)

    def bracket(self, rho: Tensor) -> tuple[Tensor, Tensor]:
        return self.exponential.draws(rho)
