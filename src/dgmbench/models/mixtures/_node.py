"""The M-step of one node of a Deep GMM: log |Q| against a quadratic form, three ways to the same maximum.

The nodes above are folded into R~_u, one for each path u through them, and the examples that come by u into moments
M_u = (1/N) sum_i (v_i, 1)(v_i, 1)^T, v what enters the node and N the (soft) number of examples that pass it. With the
bias in Q~ = [[Q, c], [0, 1]] and Omega~_u = R_u^T R_u, R_u the first d rows of R~_u, the node's share of the expected
complete log-likelihood is, for each of its examples and without what does not depend on it,

    f(Q~) = log |Q| - 1/2 sum_u Tr[M_u Q~^T Omega~_u Q~]                                 (equation 11, with biases)
    df/dQ~ = [Q^-T, 0] - (sum_u Omega~_u Q~ M_u), the first d rows                        (equation 12, corrected)
           = [Q^-T, 0] - mat(K vec(Q~) + h),    K = sum_u Omega_u (x) M_u                 (equation 14, corrected)
    f(Q~)  = log |Q| - 1/2 vec(Q~)^T K vec(Q~) - h^T vec(Q~) - constant                   (equation 13, corrected)

vec runs along rows over the first d rows of Q~; h and the constant are what its fixed last row contributes. The paper
prints the transpose of the second term of equation 12, and in 13 and 14 the quadratic form without its factor -1/2.
Where one path leads above, R~ has an inverse and the maximum is closed: R Q is the inverse Cholesky factor of the
covariance and R Q v + R c + r has mean zero.

Reference: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, section 3.2.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Form = Literal["paths", "kronecker"]

# Work of one number streamed from memory, in floating-point operations of a matrix product that stays in cache.
_STREAMED = 40.0
# Bytes that the Kronecker form's matrix may take; above, only the sum over paths is considered.
_LARGEST_MATRIX = 1 << 30
_CORRECTIONS = 20


class Singular(Exception):
    """A covariance that a node needs has no inverse."""


@dataclass(frozen=True)
class Node:
    """moments (U, d + 1, d + 1), of total weight 1; above (U, d + 1, d + 1), R~_u."""

    moments: Tensor
    above: Tensor

    @property
    def dimension(self) -> int:
        return self.moments.shape[-1] - 1

    def by_paths(self) -> "ByPaths":
        rows = self.above[:, : self.dimension]
        return ByPaths(self.moments, rows.mT @ rows)

    def preconditioned(self) -> "tuple[Node, Tensor, Tensor]":
        """The same problem in T~ = U~ Q~ V~ whose average moments and transformations are the identity; U~ and V~.

        f changes by a constant; near its maximum its curvature is then close to the identity's.
        """
        d = self.dimension
        total = self.moments.sum(0)
        mean = total[:d, d]
        entering = torch.eye(d + 1).to(total)
        entering[:d, :d] = _cholesky(total[:d, :d] - mean[:, None] * mean)
        entering[:d, d] = mean
        rows = self.above[:, :d, :d]
        leaving = torch.eye(d + 1).to(total)
        leaving[:d, :d] = _cholesky((self.moments[:, d, d, None, None] * (rows.mT @ rows)).sum(0)).T
        inverse_entering, inverse_leaving = torch.linalg.inv(entering), torch.linalg.inv(leaving)
        moments = inverse_entering @ self.moments @ inverse_entering.T
        return Node(moments, self.above @ inverse_leaving), leaving, entering


class ByPaths:
    """f and its gradient by batched products over the paths above."""

    def __init__(self, moments: Tensor, quadratic: Tensor):
        self.moments, self.quadratic = moments, quadratic

    def __call__(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """(d + 1, d + 1) -> f, a scalar, and its gradient, (d, d + 1)."""
        d = len(node) - 1
        product = torch.bmm(self.quadratic @ node, self.moments).sum(0)
        gradient = -product[:d]
        gradient[:, :d] += torch.linalg.inv(node[:d, :d]).T
        return torch.linalg.slogdet(node[:d, :d]).logabsdet - 0.5 * (product * node).sum(), gradient


class Kronecker:
    """f and its gradient by one matrix of d (d + 1) rows, built once."""

    def __init__(self, moments: Tensor, quadratic: Tensor):
        d = moments.shape[-1] - 1
        self._shape = (d, d + 1)
        left, right = quadratic[:, :d, :d].flatten(1), moments.flatten(1)
        matrix = (left.T @ right).view(d, d, d + 1, d + 1)
        self._matrix = matrix.permute(0, 2, 1, 3).reshape(d * (d + 1), d * (d + 1))
        # The last row of Q~ is fixed: its products with the others, and with itself.
        self._linear = torch.einsum("ua,ub->ab", quadratic[:, :d, d], moments[:, d]).flatten()
        self._constant = (quadratic[:, d, d] * moments[:, d, d]).sum()

    def __call__(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """(d + 1, d + 1) -> f, a scalar, and its gradient, (d, d + 1)."""
        d = self._shape[0]
        vector = node[:d].flatten()
        product = self._matrix @ vector
        gradient = -(product + self._linear).view(self._shape)
        gradient[:, :d] += torch.linalg.inv(node[:d, :d]).T
        quadratic = 0.5 * vector.dot(product) + self._linear.dot(vector) + 0.5 * self._constant
        return torch.linalg.slogdet(node[:d, :d]).logabsdet - quadratic, gradient


def work(paths: int, dimension: int, evaluations: int) -> dict[Form, float]:
    """Counted work, in floating-point operations, of `evaluations` of f and its gradient by either form."""
    size = dimension + 1
    matrix = float((dimension * size) ** 2)
    by_kronecker = 2.0 * paths * matrix + _STREAMED * matrix * (2 + evaluations)
    return {
        "paths": 4.0 * paths * size**3 * evaluations,
        "kronecker": by_kronecker if 8 * matrix <= _LARGEST_MATRIX else float("inf"),
    }


def cheaper(paths: int, dimension: int, evaluations: int) -> Form:
    """The form with less counted work."""
    counted = work(paths, dimension, evaluations)
    return min(counted, key=counted.__getitem__)


def closed_form(node: Node) -> Tensor:
    """The maximum of f where a single path leads above: (d + 1, d + 1)."""
    d = node.dimension
    total, above = node.moments[0], node.above[0]
    mean = total[:d, d]
    factor = _cholesky(total[:d, :d] - mean[:, None] * mean)
    whole = torch.eye(d + 1).to(total)
    whole[:d, :d] = torch.linalg.solve_triangular(factor, torch.eye(d).to(total), upper=False)
    whole[:d, d] = -whole[:d, :d] @ mean
    return torch.linalg.solve(above, whole)


def maximise(node: Node, start: Tensor, iterations: int, form: Form | None = None) -> tuple[Tensor, int]:
    """Q~ with f(Q~) >= f(start), by the closed form or by L-BFGS-B, and how often f was evaluated.

    Args:
        start: (d + 1, d + 1), where L-BFGS-B starts.
        iterations: most iterations of L-BFGS-B.
        form: how f is evaluated; the cheaper by counted work where left out.

    Raises:
        Singular: where the moments, or the transformations above, have no inverse.
    """
    try:
        return (closed_form(node), 0) if len(node.above) == 1 else _by_quasi_newton(node, start, iterations, form)
    except torch.linalg.LinAlgError:
        raise Singular from None


def _by_quasi_newton(node: Node, start: Tensor, iterations: int, form: Form | None) -> tuple[Tensor, int]:
    from scipy.optimize import minimize

    d = node.dimension
    problem, leaving, entering = node.preconditioned()
    by_paths = problem.by_paths()
    form = form or cheaper(len(node.above), d, iterations + iterations // 8 + 1)
    objective = by_paths if form == "paths" else Kronecker(problem.moments, by_paths.quadratic)
    last = start[d:]

    def negative(vector):
        rows = torch.from_numpy(vector).to(start).view(d, d + 1)
        value, gradient = objective(torch.cat([rows, last]))
        return -float(value), -gradient.flatten().cpu().numpy()

    first = leaving @ start @ entering
    options = {
        "maxiter": iterations,
        "maxfun": 2 * iterations + 10,
        "maxcor": _CORRECTIONS,
        "ftol": 1e-13,
        "gtol": 1e-9,
    }
    found = minimize(negative, first[:d].flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
    rows = torch.from_numpy(found.x).to(start).view(d, d + 1)
    best = torch.linalg.solve(leaving, torch.cat([rows, last])) @ torch.linalg.inv(entering)
    best[d] = last
    return best, int(found.nfev)


def _cholesky(covariance: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):
        raise Singular
    return factor
