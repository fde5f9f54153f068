"""What a smoothing of a binary variable z by a continuous zeta is: two densities, and draws that have gradients.

    r(zeta given z),  z in {0, 1};    q(zeta) = (1 - q) r(zeta given 0) + q r(zeta given 1),    q = sigmoid(logit)
    F(zeta) = (1 - q) R(zeta given 0) + q R(zeta given 1) = rho in (0, 1)

R is the distribution function of r. With rho held fixed, zeta is a function of the logit and of the parameters phi
of r, whose derivatives need no inverse of F:

    d zeta / d logit = q (1 - q) [R(zeta given 0) - R(zeta given 1)] / q(zeta),    d zeta / d phi = -d_phi F / q(zeta)

Source: Vahdat, Andriyash and Macready, "DVAE#", NeurIPS 2018, section 3.3, equations 8 and 9 (there with respect to q).
The authors' code differentiates with respect to q, and for the Gaussian integral alone the parameters of r too; here
those of every smoothing have their gradients.

All shapes broadcast: zeta (..., D), logits (..., D), parameters of r scalar or (D,) or (..., D). q itself is never
formed where a ratio of probabilities is meant, so that any finite logit will do.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

_HALVINGS = 60


class Smoothing(ABC):
    """r(zeta given z); parameters are positive tensors, leaves or functions of leaves where they are learnt.

    `overlapping` says whether both densities are positive on the same set, without which log r(zeta given 1) -
    log r(zeta given 0) is infinite and a relaxed prior cannot be formed.
    """

    overlapping = True

    @abstractmethod
    def log_densities(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """log r(zeta given 0) and log r(zeta given 1), nats."""

    @abstractmethod
    def distributions(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """R(zeta given 0) and R(zeta given 1)."""

    @abstractmethod
    def draws(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """What uniform numbers in [0, 1) become under r(. given 0) and r(. given 1): two tensors of their shape."""

    def bracket(self, rho: Tensor) -> tuple[Tensor, Tensor]:
        """Two numbers that zeta with F(zeta) = rho lies between, whatever the logit.

        F is a weighted mean of R(. given 0) >= R(. given 1), hence its quantile lies between theirs, which are
        `draws` where those invert R.
        """
        return self.draws(rho)

    def clip(self, zeta: Tensor) -> Tensor:
        """zeta at least one spacing of floating-point numbers away from 0 and 1, on either side alike.

        1 - zeta cannot be told from 0 closer to 1, where densities may be infinite. For the power function at beta =
        40 more than half of the draws of z = 1 are so near in float32; log r(zeta given 1) - log r(zeta given 0) is
        then bounded by about 16. The authors' code adds 1e-7 to zeta inside the density instead.
        """
        spacing = torch.finfo(zeta.dtype).eps
        return zeta.clamp(spacing, 1 - spacing)

    def log_prob(self, zeta: Tensor, z: Tensor) -> Tensor:
        """log r(zeta given z), nats, for z of zeros and ones."""
        off, on = self.log_densities(zeta)
        return torch.where(z > 0.5, on, off)

    def log_ratio(self, zeta: Tensor) -> Tensor:
        """b(zeta) = log r(zeta given 1) - log r(zeta given 0): what zeta adds to the log-odds of z."""
        off, on = self.log_densities(zeta)
        return on - off

    def mixture_log_prob(self, zeta: Tensor, logits: Tensor) -> Tensor:
        """log q(zeta), nats."""
        off, on = self.log_densities(zeta)
        return torch.logaddexp(F.logsigmoid(-logits) + off, F.logsigmoid(logits) + on)

    def cdf(self, zeta: Tensor, logits: Tensor) -> Tensor:
        """F(zeta) = (1 - q) R(zeta given 0) + q R(zeta given 1), equation 8."""
        off, on = self.distributions(zeta)
        return torch.sigmoid(-logits) * off + torch.sigmoid(logits) * on

    def icdf(self, rho: Tensor, logits: Tensor) -> Tensor:
        """zeta with F(zeta) = rho in (0, 1), with the gradients of the module's docstring; continuous in everything."""
        with torch.no_grad():
            zeta = self.clip(self.quantile(rho, logits))
        return self.reparametrise(zeta, logits)

    def sample(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of q(zeta) in the shape of `logits`, with the gradients of the module's docstring.

        z is drawn, then zeta given z, as the paper does it: the law of zeta and, as the gradient depends on zeta
        alone, of its gradient are those of `icdf` at uniform rho, without a search.
        """
        with torch.no_grad():
            shape, dtype, device = logits.shape, logits.dtype, logits.device
            uniform = torch.rand((2, *shape), generator=generator, dtype=dtype, device=device)
            off, on = self.draws(uniform[1])
            zeta = self.clip(torch.where(uniform[0] < torch.sigmoid(logits), on, off))
        return self.reparametrise(zeta, logits)

    def reparametrise(self, zeta: Tensor, logits: Tensor) -> Tensor:
        """`zeta` unchanged, with d zeta / d logit and d zeta / d phi at fixed F(zeta); its own history is cut."""
        zeta = zeta.detach()
        if not torch.is_grad_enabled():
            return zeta
        off, on = self.distributions(zeta)
        with torch.no_grad():
            # That of the draws, whatever a family takes for log q in a bound.
            log_mixture = Smoothing.mixture_log_prob(self, zeta, logits)
            log_off, log_on = F.logsigmoid(-logits), F.logsigmoid(logits)
            slope = (off - on) * torch.exp(log_off + log_on - log_mixture)
            weight_off, weight_on = torch.exp(log_off - log_mixture), torch.exp(log_on - log_mixture)
        carrier = slope * logits - weight_off * off - weight_on * on
        return zeta + (carrier - carrier.detach())

    def quantile(self, rho: Tensor, logits: Tensor) -> Tensor:
        """F^-1(rho) by bisection of `bracket`: safe for any density, exact to 2^-60 of the bracket or to rounding."""
        low, high = self.bracket(rho)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            below = self.cdf(middle, logits) < rho
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)


def as_parameter(value: Tensor | float) -> Tensor:
    """A number as a tensor without dimensions, in float64: it leaves the type of what it is combined with as it is."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
