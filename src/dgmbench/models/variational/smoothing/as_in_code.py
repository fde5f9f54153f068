"""Smoothings with the slips of the code that was published beside DVAE#, for those who want its numbers again.

    power function          r = (zeta + d)^(1/beta - 1) / beta,  R = (zeta + d)^(1/beta),  d = 1e-7, of zeta in [0, 1]
    spike and exponential   q in [1e-7, 1 - 1e-7] where zeta is drawn, with no gradient beyond
    shifted Gaussian        d zeta / d sd from the distances zeta - z in place of zeta - z - shift;
                            log q(zeta) with 1 - q raised to at least 1e-4 in its first factor,
                            log q = log(1 - min(q, 1 - 1e-4)) + log r(zeta given 0) + softplus(l + b(zeta))

With d the densities do not quite integrate to one, and log r(zeta given 1) - log r(zeta given 0) is bounded by 16.
Raising 1 - q adds up to l - 9.2 nats to log q of a unit with log-odds l > 9.2, so that the bound punishes certainty.

Source: the code beside Vahdat, Andriyash and Macready, "DVAE#", NeurIPS 2018, its smoothing functions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dgmbench.models.variational.smoothing.power_function import PowerFunction
from dgmbench.models.variational.smoothing.shifted_gaussian import ShiftedGaussian
from dgmbench.models.variational.smoothing.spike_and_exponential import SpikeAndExponential

_OFFSET = 1e-7
_LARGEST_LOGIT = math.log((1 - 1e-7) / 1e-7)
_LEAST_OFF = 1e-4


class OffsetPowerFunction(PowerFunction):
    """The power function of zeta + 1e-7; draws reach 0 and 1."""

    def log_densities(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        power, log_beta = 1 / self.beta - 1, torch.log(self.beta)
        return power * torch.log(zeta + _OFFSET) - log_beta, power * torch.log((1 - zeta) + _OFFSET) - log_beta

    def distributions(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        return (zeta + _OFFSET) ** (1 / self.beta), 1 - ((1 - zeta) + _OFFSET) ** (1 / self.beta)

    def clip(self, zeta: Tensor) -> Tensor:
        return zeta.clamp(0, 1)


class ClippedSpikeAndExponential(SpikeAndExponential):
    """Draws as if q lay in [1e-7, 1 - 1e-7]."""

    def sample(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        return super().sample(logits.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT), generator)


class SlippedShiftedGaussian(ShiftedGaussian):
    """The shifted Gaussian with the code's gradient with respect to sd and its log q."""

    def distributions(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """R, whose derivative with respect to sd is -r (zeta - z) / sd, not -r (zeta - z - shift) / sd."""
        sd = self.gaussian.beta**-0.5
        densities = (torch.exp(log_density).detach() for log_density in self.log_densities(zeta))
        slip = (self.shift / sd).detach() * (sd - sd.detach())
        return tuple(r - density * slip for r, density in zip(super().distributions(zeta), densities))

    def mixture_log_prob(self, zeta: Tensor, logits: Tensor) -> Tensor:
        log_off = F.logsigmoid(-logits).clamp(min=math.log(_LEAST_OFF))
        return log_off + self.log_densities(zeta)[0] + F.softplus(logits + self.log_ratio(zeta))
