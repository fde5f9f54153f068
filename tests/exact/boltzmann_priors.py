"""Small bipartite machines, all their states, quadrature over zeta, and gradients by differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dgmbench.models.boltzmann._bipartite import Bipartite
from dgmbench.models.variational.smoothing.exponential import Exponential
from dgmbench.models.variational.smoothing.gaussian import Gaussian
from dgmbench.models.variational.smoothing.power_function import PowerFunction
from dgmbench.models.variational.smoothing.uniform_exponential import UniformExponential

SMOOTHINGS = {
    "exponential": Exponential(8.0),
    "uniform_exponential": UniformExponential(12.0, 0.05),
    "power_function": PowerFunction(6.0),
    "gaussian": Gaussian(20.0),
}


def machine(own: int, other: int, coupling: float = 1.0, seed: int = 0) -> Bipartite:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((own, other), (own,), (other,))
    weights, a, b = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return Bipartite(coupling * weights, a, b)


def every_z(d: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=d)), dtype=torch.float64)


def negative_energy(one: Bipartite) -> Tensor:
    """-E(z) of every z by its definition: (2^(S + O),)."""
    own = len(one.own)
    z = every_z(own + len(one.other))
    return torch.stack([s @ one.own + o @ one.other + s @ one.weights @ o for s, o in zip(z[:, :own], z[:, own:])])


def log_z(one: Bipartite) -> Tensor:
    return torch.logsumexp(negative_energy(one), 0)


def log_conditional_terms(one: Bipartite, smoothing, zeta: Tensor) -> Tensor:
    """-E(z) + log r(zeta given z), every z: (n, 2^(S + O))."""
    z = every_z(zeta.shape[-1])
    return negative_energy(one) + smoothing.log_prob(zeta.unsqueeze(1), z).sum(-1)


def nodes(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Places zeta and lengths of a quadrature over one dimension: Gauss-Legendre in rho = F(zeta) at q = 0.6, below and
    above rho = 1 - q, where other densities over that of the mixture are bounded and smooth."""
    place, weight = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(count))
    rho = torch.cat((0.2 * (place + 1), 0.4 + 0.3 * (place + 1)))
    logits = torch.full_like(rho, math.log(1.5))
    zeta = SMOOTHINGS[name].icdf(rho, logits)
    return zeta, torch.cat((0.2 * weight, 0.3 * weight)) / SMOOTHINGS[name].mixture_log_prob(zeta, logits).exp()


def product_rule(name: str, dimension: int, count: int) -> tuple[Tensor, Tensor]:
    zeta, length = nodes(name, count)
    places = torch.cartesian_prod(*[zeta] * dimension).reshape(-1, dimension)
    return places, torch.cartesian_prod(*[length] * dimension).reshape(-1, dimension).prod(1)


def drawn_zeta(smoothing, n: int, d: int, seed: int = 1) -> Tensor:
    return smoothing.sample(torch.zeros(n, d, dtype=torch.float64), torch.Generator().manual_seed(seed))


def check_gradients(value, leaves: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    """Autograd of `value()` against central differences in one place of each leaf."""
    for leaf in leaves.values():
        leaf.requires_grad_(True)
    value().backward()
    step = 1e-5
    for name, leaf in leaves.items():
        place = tuple(side // 2 for side in leaf.shape)
        with torch.no_grad():
            leaf[place] += step
            above = value()
            leaf[place] -= 2 * step
            below = value()
            leaf[place] += step
        difference = ((above - below) / (2 * step)).item()
        assert leaf.grad[place].item() == pytest.approx(difference, rel=tolerance, abs=tolerance), name
