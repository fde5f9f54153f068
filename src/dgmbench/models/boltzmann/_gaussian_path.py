"""The annealed path of a Gaussian-Bernoulli machine, from independent normal units to the machine.

Reference: Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008, section 4, for
the binary machine.
"""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dgmbench.models.base import AnnealedPath
from dgmbench.models.boltzmann._binary import draw

if TYPE_CHECKING:
    from dgmbench.models.boltzmann import gaussian_rbm


class GaussianPath(AnnealedPath):
    """p*_beta(v) = exp(-(1 - beta) sum_i (v_i - r_i)^2 / (2 t_i) - beta sum_i (v_i - b_i)^2 / (2 s_i^2))
    prod_j (1 + exp(beta (c_j + sum_i v_i W_ij / s_i^2))).

    At beta = 0 the visible units are independent, N(r_i, t_i): log Z_0 = sum_i log(2 pi t_i) / 2 + m log 2 where
    h has m units. Given h, they are normal with precision (1 - beta) / t_i + beta / s_i^2 at every beta.

    A state must not be changed in place: the hidden input of the last one is kept, since the importance ratio
    and the transition that follows it both need it.
    """

    def __init__(self, machine: "gaussian_rbm.Model", mean: Tensor, variance: Tensor):
        self.machine, self.mean, self.variance = machine, mean, variance
        hidden = machine.weights.shape[1]
        volume = 0.5 * (math.log(2 * math.pi) + variance.double().log()).sum().item()
        self.log_z_base = volume + hidden * math.log(2)
        self._state: Tensor | None = None
        self._hidden_input: Tensor | None = None
        self._beta = math.nan
        self._hidden_mean: Tensor | None = None

    def sample_base(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.variance.sqrt() * noise

    def log_unnormalised(self, state: Tensor, beta: float) -> Tensor:
        base, target = self._quadratics(state)
        return (1 - beta) * base + beta * target + self._log_hidden(state, beta)

    def log_ratio(self, state: Tensor, beta_from: float, beta_to: float) -> Tensor:
        base, target = self._quadratics(state)
        return self._log_hidden_ratio(state, beta_from, beta_to) + (beta_to - beta_from) * (target - base)

    def step(self, state: Tensor, beta: float, generator: torch.Generator) -> Tensor:
        """Block Gibbs: h given v, then v given h, both at `beta`."""
        hidden = draw(self._mean(state, beta), generator)
        of_base = (1 - beta) / self.variance
        of_target = beta * torch.exp(-self.machine.log_variance)
        precision = of_base + of_target
        mean = (of_base * self.mean + of_target * self.machine.visible_mean(hidden)) / precision
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + noise / precision.sqrt()

    def _quadratics(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """log of the visible units' factors of the base and of the machine: (n, d) -> (n,), (n,), float64."""
        of_base = (state - self.mean).double().square() @ (0.5 / self.variance.double())
        return -of_base, self.machine.log_visible(state)

    def _input(self, state: Tensor) -> Tensor:
        if state is not self._state:
            self._state, self._hidden_input = state, self.machine.hidden_input(state)
            self._beta = math.nan
        return self._hidden_input

    def _mean(self, state: Tensor, beta: float) -> Tensor:
        hidden_input = self._input(state)
        if beta != self._beta:
            self._beta, self._hidden_mean = beta, torch.sigmoid_(beta * hidden_input)
        return self._hidden_mean

    def _log_hidden(self, state: Tensor, beta: float) -> Tensor:
        return F.softplus(beta * self._input(state)).sum(1, dtype=torch.float64)

    def _log_hidden_ratio(self, state: Tensor, beta_from: float, beta_to: float) -> Tensor:
        """The difference is formed unit by unit, so that it stays accurate when the temperatures are close:
        softplus(beta' x) - softplus(beta x) = -log(1 + sigmoid(beta' x) (exp((beta - beta') x) - 1))."""
        change = beta_to - beta_from
        if abs(change) > 0.01:
            return self._log_hidden(state, beta_to) - self._log_hidden(state, beta_from)
        # exp(change x) stays in range for any |x| < 8000.
        growth = torch.expm1(-change * self._input(state)).mul_(self._mean(state, beta_to))
        return -growth.log1p_().sum(1).double()
