"""First transformations of a Deep GMM: layers fitted from the data upwards, a layer of scales, or near the identity.

    layer k is a mixture of N_k Gaussians of x; layer j one of v = Q~_j+1,p ... Q~_k,p (x, 1), p the most probable nodes

Each layer leaves to the one above what its own components cannot tell. With a layer of scales, the one right below the
top starts as multiples s_i I of the identity instead, s_1 < ... < s_N evenly spaced in the logarithm: top and scales
together start as a finite mixture of Gaussian scale mixtures, which is what patches of all contrasts look like.
"""

import math

import torch
from torch import Tensor

from dgmbench.models.mixtures import _em
from dgmbench.models.mixtures._fitting import CHUNK, split_the_largest
from dgmbench.models.mixtures._network import homogeneous

# Variance added to a component of a start, as a share of the unit variance that every layer is handed.
_RIDGE = 1e-3
# Standard deviation of the random part of a transformation near the identity, over sqrt(d).
_NEARBY = 0.1
# The smallest and the largest scale of a layer of scales.
_SCALES = (0.3, 3.0)


def fitted(
    z: Tensor, sizes: tuple[int, ...], iterations: int, scales: bool, generator: torch.Generator
) -> list[Tensor]:
    """Layers fitted greedily to whitened examples (n, d): Q~ of each layer, (N_j, d + 1, d + 1), float64."""
    layers: list[Tensor] = []
    for j, nodes in reversed(list(enumerate(sizes))):
        if scales and j == 1:
            layers.insert(0, _scaled(z, nodes, generator))
            continue
        log_weights, means, factors = _mixture(z, nodes, iterations, generator)
        d = z.shape[1]
        inverse = torch.linalg.solve_triangular(factors, torch.eye(d).to(factors).expand_as(factors), upper=False)
        layers.insert(0, homogeneous(inverse, -(inverse @ means[..., None])[..., 0]))
        z = _passed_on(z, layers[0], _em.natural_parameters(log_weights, means, factors))
    return layers


def nearby(z: Tensor, sizes: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
    """Random examples with unit covariance in the top layer, transformations near the identity below."""
    d = z.shape[1]
    options = {"generator": generator, "device": z.device, "dtype": torch.float64}
    eye = torch.eye(d, dtype=torch.float64, device=z.device)
    chosen = torch.randperm(len(z), generator=generator, device=z.device)[: sizes[0]]
    layers = [homogeneous(eye.expand(sizes[0], d, d), -z[chosen].double())]
    for nodes in sizes[1:]:
        linear = eye + _NEARBY / math.sqrt(d) * torch.randn(nodes, d, d, **options)
        layers.append(homogeneous(linear, torch.zeros(nodes, d).to(eye)))
    return layers


def _scaled(z: Tensor, nodes: int, generator: torch.Generator) -> Tensor:
    """Inverses of multiples of the identity, a little apart from it: (nodes, d + 1, d + 1)."""
    d = z.shape[1]
    options = {"device": z.device, "dtype": torch.float64}
    low, high = map(math.log, _SCALES)
    scales = torch.linspace(low, high, nodes, **options).exp() if nodes > 1 else torch.ones(1, **options)
    noise = torch.randn(nodes, d, d, generator=generator, **options)
    nearly = torch.eye(d, **options) + 0.1 * _NEARBY / math.sqrt(d) * noise
    return homogeneous(nearly / scales[:, None, None], torch.zeros(nodes, d, **options))


def _mixture(z: Tensor, nodes: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A mixture of Gaussians by EM from random examples: log weights, means, Cholesky factors."""
    d = z.shape[1]
    eye = torch.eye(d, dtype=torch.float64, device=z.device)
    chosen = torch.randperm(len(z), generator=generator, device=z.device)[:nodes]
    log_weights = torch.full((nodes,), -math.log(nodes)).to(eye)
    means, factors = z[chosen].double(), eye.repeat(nodes, 1, 1)
    workspace = _em.Workspace(nodes, d, CHUNK, z.dtype, z.device)
    for _ in range(iterations):
        _, sums = workspace.accumulate(z, _em.natural_parameters(log_weights, means, factors))
        counts, means, covariances = _em.moments(sums, d)
        split_the_largest(counts < d + 1, counts, means, covariances, generator)
        factors = torch.linalg.cholesky(covariances + _RIDGE * eye)
        log_weights = (counts / counts.sum()).log()
    return log_weights, means, factors


def _passed_on(z: Tensor, nodes: Tensor, theta: Tensor) -> Tensor:
    """What enters the layer above: each example through its most probable node, (n, d)."""
    d = z.shape[1]
    workspace = _em.Workspace(len(nodes), d, CHUNK, z.dtype, z.device)
    theta = theta.to(z.dtype)
    passed = torch.empty_like(z)
    for part, out in zip(z.split(CHUNK), passed.split(CHUNK), strict=True):
        node = workspace.posterior(theta, workspace.expand(part))[0].argmax(0)
        for i in node.unique():
            own, whole = node == i, nodes[i]
            out[own] = (part[own].double() @ whole[:d, :d].T + whole[:d, d]).to(z.dtype)
    return passed
