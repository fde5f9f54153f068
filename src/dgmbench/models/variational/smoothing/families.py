"""The smoothings by name, as a spec or a setting says which."""

from typing import Literal, get_args

from torch import Tensor

from dgmbench.models.variational.smoothing.base import Smoothing
from dgmbench.models.variational.smoothing.exponential import Exponential
from dgmbench.models.variational.smoothing.gaussian import Gaussian
from dgmbench.models.variational.smoothing.power_function import PowerFunction
from dgmbench.models.variational.smoothing.shifted_gaussian import ShiftedGaussian
from dgmbench.models.variational.smoothing.spike_and_exponential import SpikeAndExponential
from dgmbench.models.variational.smoothing.uniform_exponential import UniformExponential

Mirrored = Literal["exponential", "uniform_exponential", "power_function", "gaussian"]  # r(zeta, 1) = r(1 - zeta, 0)
Family = Literal[Mirrored, "shifted_gaussian", "spike_and_exponential"]
FAMILIES: tuple[str, ...] = get_args(Family)


def smoothing(family: str, beta: Tensor | float, epsilon: float = 0.05, shift: Tensor | float = 0.0) -> Smoothing:
    """The smoothing of that name; only uniform_exponential reads epsilon, only shifted_gaussian the shift.

    Raises:
        ValueError: power_function with beta <= 1, where its densities do not face their ends.
    """
    if family == "power_function" and not bool(PowerFunction(beta).beta.min() > 1):
        raise ValueError("the power function needs beta above 1: write a larger one, such as 15 (published: 15 to 40)")
    match family:
        case "exponential":
            return Exponential(beta)
        case "uniform_exponential":
            return UniformExponential(beta, epsilon)
        case "power_function":
            return PowerFunction(beta)
        case "gaussian":
            return Gaussian(beta)
        case "shifted_gaussian":
            return ShiftedGaussian(beta, shift)
        case "spike_and_exponential":
            return SpikeAndExponential(beta)
    raise ValueError(f"there is no smoothing '{family}': write one of {', '.join(FAMILIES)}")
