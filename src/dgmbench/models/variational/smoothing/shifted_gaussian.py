"""Two Gaussian densities at distance one, moved together: the posterior's smoothing beside a Gaussian-integral prior.

    r(zeta given z) = N(zeta; z + shift, 1/beta),    that is, the Gaussian smoothing at zeta - shift

The prior's components N(zeta; z, P^-1) have correlated units. A product of conditionals N(zeta_i; z_i + shift_i,
1/beta_i) with the shift a function of the units before i represents such a Gaussian. Limits and inverses are those of
the Gaussian smoothing, moved: as beta grows zeta tends to z + shift.

Source: DVAE# (Vahdat, Andriyash and Macready, NeurIPS 2018), section 4. The gradient with respect to beta is in the
distances zeta - z - shift; the authors' code leaves the shift out there. It also bounds the shift, to (sigmoid(p) -
1/2) / 2 of a network's output p, and has 1 / sqrt(beta) = 0.2 |s| + 0.05: both are the caller's to choose.
"""

from torch import Tensor

from dgmbench.models.variational.smoothing.base import Smoothing, as_parameter
from dgmbench.models.variational.smoothing.gaussian import Gaussian


class ShiftedGaussian(Smoothing):
    """`beta` > 0, the precision of either density, often one for each unit; `shift`, often one for each example too."""

    def __init__(self, beta: Tensor | float, shift: Tensor | float):
        self.gaussian, self.shift = Gaussian(beta), as_parameter(shift)

    def log_densities(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        return self.gaussian.log_densities(zeta - self.shift)

    def log_ratio(self, zeta: Tensor) -> Tensor:
        return self.gaussian.log_ratio(zeta - self.shift)

    def distributions(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        return self.gaussian.distributions(zeta - self.shift)

    def draws(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """R^-1 of either density."""
        off, on = self.gaussian.draws(uniform)
        return off + self.shift, on + self.shift

    def clip(self, zeta: Tensor) -> Tensor:
        """All of the real line is support."""
        return zeta
