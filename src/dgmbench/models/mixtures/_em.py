"""E- and M-step of a Gaussian mixture as two matrix products for each chunk of examples.

    log pi_k N(z; mu_k, S_k) = theta_k . phi(z),   phi(z) = (1, z, upper triangle of z z^T)
    sum_n r_nk phi(z_n)      = (r_k, sum r z, sum r z z^T)

With F = 1 + d + d (d + 1) / 2 features, an iteration costs 4 n k F floating-point operations and holds two
buffers of F numbers and three of k numbers for each example of a chunk, whatever n is.
"""

import math

import torch
from torch import Tensor

# Below e^-60 a responsibility adds nothing in either precision.
_TRACE = -60.0


def natural_parameters(log_weights: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """theta of every component: (k,), (k, d), Cholesky factors (k, d, d) -> (k, F)."""
    dimension = means.shape[1]
    precisions = torch.cholesky_inverse(factors)
    linear = torch.einsum("kij,kj->ki", precisions, means)
    log_volume = factors.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * dimension * math.log(2 * math.pi)
    constant = log_weights - log_volume - 0.5 * (linear * means).sum(1)
    rows, columns = torch.triu_indices(dimension, dimension, device=means.device)
    # An off-diagonal product stands for two equal terms of the quadratic form.
    quadratic = -precisions[:, rows, columns] * torch.where(rows == columns, 0.5, 1.0).to(means)
    return torch.cat([constant[:, None], linear, quadratic], 1)


def moments(sums: Tensor, dimension: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sums of phi -> counts (k,), means (k, d), covariances (k, d, d), of maximum likelihood."""
    counts = sums[:, 0]
    averages = sums / counts[:, None].clamp(min=torch.finfo(sums.dtype).tiny)
    means = averages[:, 1 : 1 + dimension]
    rows, columns = torch.triu_indices(dimension, dimension, device=sums.device)
    products = sums.new_zeros(len(sums), dimension, dimension)
    products[:, rows, columns] = averages[:, 1 + dimension :]
    products[:, columns, rows] = averages[:, 1 + dimension :]
    return counts, means, products - means[:, :, None] * means[:, None, :]


def exponentials(exponents: Tensor) -> Tensor:
    """exp of numbers of at most 0, in place; 0 at and below e^-60.

    Without a floor the smallest would be subnormal, which is slow; left at it, a component without examples would take
    a trace of every one, and become the Gaussian of all.
    """
    return torch.nn.functional.threshold_(exponents.clamp_(min=_TRACE).exp_(), 1.001 * math.exp(_TRACE), 0.0)


class Workspace:
    """The buffers of `chunk` examples, allocated once."""

    def __init__(self, components: int, dimension: int, chunk: int, dtype: torch.dtype, device: torch.device):
        self.chunk, self.dimension = chunk, dimension
        features = 1 + dimension + dimension * (dimension + 1) // 2
        self._features = torch.ones(features, chunk, dtype=dtype, device=device)
        self._scores = torch.empty(components, chunk, dtype=dtype, device=device)
        self._part = torch.empty(components, features, dtype=dtype, device=device)

    def expand(self, z: Tensor) -> Tensor:
        """phi(z), one column for each example: (m, d) -> (F, m). A view of the buffer; row 0 stays at 1."""
        features, d = self._features[:, : len(z)], self.dimension
        coordinates = features[1 : 1 + d]
        coordinates.copy_(z.T)
        start = 1 + d
        for i in range(d):
            torch.mul(coordinates[i], coordinates[i:], out=features[start : start + d - i])
            start += d - i
        return features

    def posterior(self, theta: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Responsibilities (k, m), a view of the buffer, and log p(z) (m,)."""
        scores = self._scores[:, : features.shape[1]]
        torch.mm(theta, features, out=scores)
        top = scores.amax(0)
        exponentials(scores.sub_(top))
        total = scores.sum(0)
        scores.div_(total)
        return scores, top + total.log()

    def accumulate(self, z: Tensor, theta: Tensor) -> tuple[float, Tensor]:
        """One pass: sum of log p(z) in nats and the weighted sums of phi, (n, d), (k, F) -> (k, F) in float64."""
        theta = theta.to(z.dtype)
        sums = torch.zeros(theta.shape, dtype=torch.float64, device=z.device)
        log_likelihood = torch.zeros((), dtype=torch.float64, device=z.device)
        for part in z.split(self.chunk):
            features = self.expand(part)
            responsibilities, log_prob = self.posterior(theta, features)
            log_likelihood += log_prob.sum(dtype=torch.float64)
            sums += torch.mm(responsibilities, features.T, out=self._part)
        return float(log_likelihood), sums

    def log_prob(self, z: Tensor, theta: Tensor) -> Tensor:
        """log p(z) as the E-step sees it: (n, d) -> (n,)."""
        theta = theta.to(z.dtype)
        return torch.cat([self.posterior(theta, self.expand(part))[1] for part in z.split(self.chunk)])

    def sums_of_labels(self, z: Tensor, labels: Tensor) -> Tensor:
        """The weighted sums of phi where each example belongs wholly to its label: (n, d), (n,) -> (k, F)."""
        sums = torch.zeros(self._part.shape, dtype=torch.float64, device=z.device)
        for part, own in zip(z.split(self.chunk), labels.split(self.chunk), strict=True):
            sums.index_add_(0, own, self.expand(part).T.double())
        return sums
