"""What a decoder says of x: independent dimensions, whose distributions a network's outputs a(z) determine.

    Bernoulli:      log p(x given z) = sum_i x_i a_i - softplus(a_i)
    Gaussian:       log p(x given z) = sum_i log N(x_i; m_i, s_i^2),  s_i given once for all, or
                    a = (m, t) and s_i^2 = exp(2 t_i) + least_sd^2
    squared error:  log p(x given z) = -sum_i (x_i - m_i)^2 - d/2 log pi, which is the Gaussian of variance 1/2

Shapes: x (n, d), a (..., n, width). A table of k outputs and n examples is (k, n). All in nats.

Reference: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix C.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LOG_2_PI = math.log(2 * math.pi)
_ROWS_IN_CACHE = 256
_FACTORS = 4  # halvings: each logarithm is of 2^4 factors between 1 and 2, or of one more for every odd width


class Output(ABC):
    """`values`: the kinds of data that the distribution is defined on."""

    values: frozenset[str]

    @abstractmethod
    def width(self, dimension: int) -> int:
        """Outputs of the network for d dimensions."""

    @abstractmethod
    def first_bias(self, x: np.ndarray) -> np.ndarray:
        """Outputs that give the training data their own moments, dimension by dimension: (n, d) -> (width,)."""

    @abstractmethod
    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        """(n, d), (..., n, width) -> (..., n)."""

    @abstractmethod
    def table(self, x: Tensor, a: Tensor) -> Tensor:
        """log p of every example by every output, as products of matrices: (n, d), (k, width) -> (k, n), float64."""

    @abstractmethod
    def mean(self, a: Tensor) -> Tensor:
        """E[x given z]: (n, width) -> (n, d)."""

    @abstractmethod
    def draw(self, a: Tensor, generator: torch.Generator) -> Tensor:
        """x from p(x given z): (n, width) -> (n, d)."""


class Bernoulli(Output):
    values = frozenset({"binary"})

    def width(self, dimension: int) -> int:
        return dimension

    def first_bias(self, x: np.ndarray) -> np.ndarray:
        means = x.mean(axis=0, dtype=np.float64).clip(0.001, 0.999)
        return np.log(means) - np.log1p(-means)

    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        return (x * a - F.softplus(a)).sum(-1)

    def table(self, x: Tensor, a: Tensor) -> Tensor:
        a = a.double()
        return a @ x.double().T - F.softplus(a).sum(-1, keepdim=True)

    def mean(self, a: Tensor) -> Tensor:
        return torch.sigmoid(a)

    def draw(self, a: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(a.shape, generator=generator, dtype=a.dtype, device=a.device)
        return (uniform < torch.sigmoid(a)).to(a.dtype)


class Gaussian(Output):
    """Args: sd, the standard deviation of every dimension, or None where the network gives it; least_sd, its floor."""

    values = frozenset({"unit", "real"})

    def __init__(self, sd: float | None, least_sd: float):
        self.sd, self.least_sd = sd, least_sd

    def width(self, dimension: int) -> int:
        return dimension if self.sd is not None else 2 * dimension

    def first_bias(self, x: np.ndarray) -> np.ndarray:
        means = x.mean(axis=0, dtype=np.float64)
        if self.sd is not None:
            return means
        variances = x.var(axis=0, dtype=np.float64) - self.least_sd**2
        return np.concatenate([means, 0.5 * np.log(variances.clip(self.least_sd**2))])

    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        mean, log_sd = self._moments(a)
        return -(0.5 * ((x - mean) * torch.exp(-log_sd)).square() + log_sd + 0.5 * _LOG_2_PI).sum(-1)

    def table(self, x: Tensor, a: Tensor) -> Tensor:
        mean, log_sd = self._moments(a.double())
        # Squares are expanded about the examples' mean, so that little cancels.
        centre = x.double().mean(0)
        x, mean, precision = x.double() - centre, mean - centre, torch.exp(-2 * log_sd)
        squares = precision @ x.square().T - 2 * (precision * mean) @ x.T
        rest = (0.5 * precision * mean.square() + log_sd + 0.5 * _LOG_2_PI).sum(-1, keepdim=True)
        return -0.5 * squares - rest

    def mean(self, a: Tensor) -> Tensor:
        return self._moments(a)[0]

    def draw(self, a: Tensor, generator: torch.Generator) -> Tensor:
        mean, log_sd = self._moments(a)
        noise = torch.randn(mean.shape, generator=generator, dtype=a.dtype, device=a.device)
        return mean + torch.exp(log_sd) * noise

    def _moments(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation: (..., width) -> (..., d) twice."""
        if self.sd is not None:
            return a, torch.full_like(a, math.log(self.sd))
        mean, log_sd = a.chunk(2, dim=-1)
        floor = torch.full_like(log_sd, 2 * math.log(self.least_sd))
        return mean, 0.5 * torch.logaddexp(2 * log_sd, floor)


SQUARED_ERROR_SD = math.sqrt(0.5)


def bernoulli_log_normaliser(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """sum_i log(1 + exp a_i) of a = W u + b: (..., m) -> (...), nats.

    Where no gradient is asked for it is summed as sum_i (a_i + |a_i|) / 2 + log prod_i (1 + exp -|a_i|), blocks of rows
    that stay in the cache and few logarithms: 0.6 of the time of softplus. The sum's rounding, in float32, is one of
    sum_i |a_i|: 1e-7 of some thousand nats.
    """
    if torch.is_grad_enabled():
        return F.softplus(F.linear(u, weight, bias)).sum(-1)
    rows = u.flatten(0, -2)
    found = rows.new_empty(len(rows))
    for part, sums in zip(rows.split(_ROWS_IN_CACHE), found.split(_ROWS_IN_CACHE)):
        a = F.linear(part, weight, bias)
        total = a.sum(-1)
        total = total.add_(a.abs_().sum(-1)).mul_(0.5)
        factors = a.neg_().exp_().add_(1.0)
        for _ in range(_FACTORS):
            half, odd = divmod(factors.shape[-1], 2)
            if half == 0:
                break
            left = factors[:, :half].mul_(factors[:, half : 2 * half])
            if odd:
                left[:, 0].mul_(factors[:, -1])
            factors = left
        torch.add(total, factors.log().sum(-1), out=sums)
    return found.view(u.shape[:-1])
