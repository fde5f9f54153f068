"""The best path of every example of a Deep GMM: the full search, and coordinate ascent over its layers.

    p*(x) = argmax_p log pi_p + log N(x; path p)                                             (equation 4)
    one pass:  for each layer j:  p_j <- argmax_i of it at (p_1, ..., i, ..., p_k)           (section 3.1, "Heuristic")

A pass evaluates sum_j N_j paths for each example instead of prod_j N_j. Examples that agree in all other layers are
scored together, by one matrix product with their candidates. Scores never fall along a pass.

Reference: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, section 3.1.
"""

import math

import torch
from torch import Tensor

from dgmbench.models.mixtures._em import Workspace


class PathSearch:
    """The search for one set of parameters.

    Args:
        sizes: nodes of each layer, the one nearest z first.
        theta: (P, F) natural parameters of every path.
        chunk: examples whose features are held at once.
    """

    def __init__(self, sizes: tuple[int, ...], theta: Tensor, dimension: int, chunk: int):
        self._sizes, self._theta = sizes, theta
        self._strides = [math.prod(sizes[j + 1 :]) for j in range(len(sizes))]
        self._workspace = Workspace(1, dimension, chunk, theta.dtype, theta.device)
        self.evaluations = 0  # paths scored so far, over all examples

    def every(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The full search: log pi_p N of the best path, (n,), and its number, (n,)."""
        found = [(self._theta @ self._workspace.expand(part)).max(0) for part in z.split(self._workspace.chunk)]
        self.evaluations += len(z) * len(self._theta)
        return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])

    def ascend(self, z: Tensor, paths: Tensor, passes: int) -> tuple[Tensor, Tensor]:
        """Coordinate ascent from given paths: log pi_p N of the path reached, (n,), and its number, (n,)."""
        scores = torch.empty(len(z), dtype=z.dtype, device=z.device)
        paths = paths.clone()
        for _ in range(passes):
            for j in range(len(self._sizes)):
                self._choose(z, paths, scores, j)
        return scores, paths

    def from_random(self, z: Tensor, passes: int, repeats: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The best of `repeats` ascents from uniformly drawn paths."""
        best = None
        for _ in range(repeats):
            start = torch.randint(len(self._theta), (len(z),), generator=generator, device=z.device)
            best = better(best, self.ascend(z, start, passes))
        assert best is not None
        return best

    def _choose(self, z: Tensor, paths: Tensor, scores: Tensor, j: int) -> None:
        """Set the node of layer j of every path to the best one, in place."""
        stride, nodes = self._strides[j], self._sizes[j]
        own = paths.div(stride, rounding_mode="floor") % nodes
        rest = paths - own * stride
        order = rest.argsort(stable=True)
        others, counts = rest[order].unique_consecutive(return_counts=True)
        candidates = torch.arange(nodes, device=z.device) * stride
        for other, rows in zip(others.tolist(), order.split(counts.tolist()), strict=True):
            theta = self._theta[candidates + other]
            for part in rows.split(self._workspace.chunk):
                best = (theta @ self._workspace.expand(z[part])).max(0)
                scores[part], paths[part] = best.values, other + best.indices * stride
        self.evaluations += len(z) * nodes


def better(first: tuple[Tensor, Tensor] | None, second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Example by example the (scores, paths) with the larger score, the first where they tie."""
    if first is None:
        return second
    improved = second[0] > first[0]
    return torch.where(improved, second[0], first[0]), torch.where(improved, second[1], first[1])


def moments_of_paths(z: Tensor, paths: Tensor, count: int) -> Tensor:
    """sum over the examples of each path of (z, 1)(z, 1)^T, in float64: (n, d), (n,) -> (P, d + 1, d + 1)."""
    d = z.shape[1]
    moments = torch.zeros(count, d + 1, d + 1, dtype=torch.float64, device=z.device)
    order = paths.argsort(stable=True)
    present, counts = paths[order].unique_consecutive(return_counts=True)
    for path, rows in zip(present.tolist(), order.split(counts.tolist()), strict=True):
        own = torch.ones(len(rows), d + 1, dtype=torch.float64, device=z.device)
        own[:, :d] = z[rows]
        moments[path] = own.T @ own
    return moments
