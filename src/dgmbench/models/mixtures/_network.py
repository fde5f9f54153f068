"""The transformations of a Deep GMM, as homogeneous matrices, and what their paths fold into.

A node (A, b) of a layer maps v to A v + b. Its inverse is kept as one (d + 1, d + 1) matrix that also holds the bias,

    Q~ = [[Q, c], [0, 1]],    Q = A^-1,    c = -A^-1 b,    Q~ (v, 1) = (A^-1 (v - b), 1),

so that a path p = (p_1, ..., p_k), layer 1 nearest z, folds into one product, x -> z:

    W~_p = Q~_1,p1 Q~_2,p2 ... Q~_k,pk = [[W_p, w_p], [0, 1]],    W_p = Omega_p^-1,    w_p = -Omega_p^-1 beta_p
    log N(x; beta_p, Omega_p Omega_p^T) = log |W_p| - |W_p x + w_p|^2 / 2 - d/2 log 2 pi

Paths are numbered in row-major order of (p_1, ..., p_k). Shapes: P paths, N_j nodes in layer j, d dimensions.

Reference: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, equations 1 to 3 and 5 to 8, which leave the biases out from equation 5 on.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def invert(matrices: Tensor, biases: Tensor) -> Tensor:
    """(A, b) of nodes -> Q~: (N, d, d), (N, d) -> (N, d + 1, d + 1)."""
    inverse = torch.linalg.inv(matrices)
    return homogeneous(inverse, -(inverse @ biases[..., None])[..., 0])


def homogeneous(linear: Tensor, offset: Tensor) -> Tensor:
    """[[linear, offset], [0, 1]]: (N, d, d), (N, d) -> (N, d + 1, d + 1)."""
    d = linear.shape[-1]
    whole = linear.new_zeros(*linear.shape[:-2], d + 1, d + 1)
    whole[..., :d, :d], whole[..., :d, d], whole[..., d, d] = linear, offset, 1.0
    return whole


def generative(nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Q~ of nodes -> (A, b): (N, d + 1, d + 1) -> (N, d, d), (N, d)."""
    d = nodes.shape[-1] - 1
    matrices = torch.linalg.inv(nodes[..., :d, :d])
    return matrices, -(matrices @ nodes[..., :d, d:])[..., 0]


def compose(first: Tensor, second: Tensor) -> Tensor:
    """All products first_i second_j, row-major in (i, j): (m, ., .), (n, ., .) -> (m n, ., .)."""
    return (first[:, None] @ second[None]).flatten(0, 1)


def fold(layers: Sequence[Tensor], size: int, like: Tensor) -> Tensor:
    """Products of one node from each layer, for all choices: (N_1 N_2 ..., size, size); the identity for no layers."""
    folded = torch.eye(size).to(like)[None]
    for nodes in layers:
        folded = compose(folded, nodes)
    return folded


def log_determinants(layers: Sequence[Tensor]) -> Tensor:
    """log |W_p| of every path, as a sum over its nodes: (P,)."""
    total = layers[0].new_zeros(1)
    for nodes in layers:
        d = nodes.shape[-1] - 1
        total = (total[:, None] + torch.linalg.slogdet(nodes[:, :d, :d]).logabsdet[None]).flatten()
    return total


def natural_parameters(layers: Sequence[Tensor], log_weights: Tensor) -> Tensor:
    """theta with log pi_p N(x; beta_p, Omega_p Omega_p^T) = theta_p . phi(x), phi as in `_em`: (P, F)."""
    d = layers[0].shape[-1] - 1
    folded = fold(layers, d + 1, layers[0])
    linear, offset = folded[:, :d, :d], folded[:, :d, d]
    precisions = linear.mT @ linear
    constant = log_weights + log_determinants(layers) - 0.5 * offset.square().sum(1) - 0.5 * d * math.log(2 * math.pi)
    rows, columns = torch.triu_indices(d, d, device=linear.device)
    # An off-diagonal product stands for two equal terms of the quadratic form.
    quadratic = -precisions[:, rows, columns] * torch.where(rows == columns, 0.5, 1.0).to(linear)
    return torch.cat([constant[:, None], -(linear.mT @ offset[..., None])[..., 0], quadratic], 1)


def path_densities(layers: Sequence[Tensor], log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """W~_p (P, d + 1, d + 1) and log pi_p |W_p| (2 pi)^(-d/2) (P,) of every path."""
    d = layers[0].shape[-1] - 1
    constants = log_weights + log_determinants(layers) - 0.5 * d * math.log(2 * math.pi)
    return fold(layers, d + 1, log_weights), constants


def log_joint(x: Tensor, folded: Tensor, constants: Tensor) -> Tensor:
    """log pi_p N(x_n; path p), given W~_p and log pi_p |W_p| (2 pi)^(-d/2): (m, d) -> (P, m), nats."""
    d = x.shape[1]
    scores = x.new_empty(len(folded), len(x))
    for p, whole in enumerate(folded):
        z = torch.addmm(whole[:d, d], x, whole[:d, :d].T)
        scores[p] = constants[p] - 0.5 * z.square_().sum(1)
    return scores


def second_moments(sums: Tensor, d: int) -> Tensor:
    """Weighted sums of phi(x) -> weighted sums of (x, 1)(x, 1)^T: (P, F) -> (P, d + 1, d + 1)."""
    rows, columns = torch.triu_indices(d, d, device=sums.device)
    moments = sums.new_empty(len(sums), d + 1, d + 1)
    moments[:, rows, columns] = moments[:, columns, rows] = sums[:, 1 + d :]
    moments[:, d, :d] = moments[:, :d, d] = sums[:, 1 : 1 + d]
    moments[:, d, d] = sums[:, 0]
    return moments


def at_layer(moments: Tensor, layers: Sequence[Tensor], j: int) -> Tensor:
    """Moments of what enters Q~ of layer j, kept apart by the path above: (P, d+1, d+1) -> (upper, N_j, d+1, d+1).

    An example of path p enters layer j as L~_p (x, 1), L~ the product of the nodes below (equation 6).
    """
    size = moments.shape[-1]
    lower = fold(layers[j + 1 :], size, moments)
    nodes = len(layers[j])
    grouped = moments.view(-1, nodes, len(lower), size, size)
    entering = torch.zeros(grouped.shape[0], nodes, size, size).to(moments)
    for position, transformation in enumerate(lower):
        entering += transformation @ grouped[:, :, position] @ transformation.T
    return entering
