"""Structures of the covariances of a Gaussian mixture: what each keeps of the components' scatter matrices.

    full       Sigma_k = S_k,    S_k = sum_n r_nk (z_n - mu_k)(z_n - mu_k)^T / sum_n r_nk
    tied       Sigma_k = sum_k (sum_n r_nk) S_k / n
    diagonal   Sigma_k = diag(S_k)
    spherical  Sigma_k = tr(S_k) / d I
    low_rank   Sigma_k = W_k W_k^T + diag(psi_k), W_k (d, rank): EM of a factor analyser on S_k, some steps of
               B = W^T (W W^T + Psi)^-1,  W <- S B^T (I - B W + B S B^T)^-1,  Psi <- diag(S - W B S)

The first four maximise the expected complete log-likelihood; a step of the fifth never lowers -log |Sigma| - tr
(Sigma^-1 S), so EM with it is a generalised EM: no structure's likelihood ever falls (ridge 0).

References: Bishop, "Pattern Recognition and Machine Learning", 2006, section 9.2; Ghahramani and Hinton, "The EM
algorithm for mixtures of factor analyzers", University of Toronto, 1996.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from dgmbench.models.mixtures import _em
from dgmbench.models.mixtures._fitting import Scaling

_FACTOR_STEPS = 3
# Random part of the first loadings, over the noise's standard deviation: loadings of zero would stay zero.
_FIRST_LOADINGS = 0.1


class Full:
    """Also what the others are unless they say otherwise."""

    scaling: ClassVar[Scaling] = "whitened"
    # Whether a re-seeded component differs from its other half in scale too.
    scales: ClassVar[bool] = True

    def __init__(self, rank: int):
        self.rank = rank

    def least(self, d: int) -> int:
        """Examples that one component needs."""
        return d + 1

    def free(self, k: int, d: int) -> int:
        """Free parameters of k covariances."""
        return k * d * (d + 1) // 2

    def workspace(self, k: int, d: int, chunk: int, dtype: torch.dtype, device: torch.device) -> _em.Workspace:
        return _em.Workspace(k, d, chunk, dtype, device)

    def natural_parameters(self, em: dict[str, Any]) -> Tensor:
        return _em.natural_parameters(em["log_weights"], em["means"], em["factors"])

    def moments(self, sums: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted sums of features -> counts (k,), means (k, d), scatter matrices (k, d, d)."""
        return _em.moments(sums, d)

    def implied(self, em: dict[str, Any], ridge: Tensor) -> Tensor:
        """Weights times expected features from which the M-step, which adds the ridge, makes the parameters: (k, F)."""
        weights, means = em["log_weights"].exp(), em["means"]
        seconds = em["factors"] @ em["factors"].mT - ridge + means[:, :, None] * means[:, None, :]
        rows, columns = torch.triu_indices(means.shape[1], means.shape[1], device=means.device)
        return weights[:, None] * torch.cat([torch.ones_like(means[:, :1]), means, seconds[:, rows, columns]], 1)

    def extras(self, k: int, d: int, like: Tensor) -> dict[str, Tensor]:
        """What else EM carries, before it starts."""
        return {}

    def begin(self, em: dict[str, Any], covariances: Tensor, generator: torch.Generator) -> Tensor:
        """Covariances (k, d, d) of this structure to start from; sets the extras in place."""
        return self.constrained(em, em["log_weights"].exp(), covariances)

    def constrained(self, em: dict[str, Any], counts: Tensor, scatter: Tensor) -> Tensor:
        """Covariances (k, d, d) of this structure; extras move in place."""
        return scatter

    def copy(self, em: dict[str, Any], target: int, source: int) -> None:
        """Extras of a component that starts again as a half of another."""


class Tied(Full):
    scales = False

    def least(self, d: int) -> int:
        return 1

    def free(self, k: int, d: int) -> int:
        return d * (d + 1) // 2

    def constrained(self, em: dict[str, Any], counts: Tensor, scatter: Tensor) -> Tensor:
        return torch.einsum("k,kij->ij", counts / counts.sum(), scatter).expand_as(scatter).clone()


class Diagonal(Full):
    scaling = "axes"

    def least(self, d: int) -> int:
        return 2

    def free(self, k: int, d: int) -> int:
        return k * d

    def workspace(self, k: int, d: int, chunk: int, dtype: torch.dtype, device: torch.device) -> _em.Workspace:
        return SquaresWorkspace(k, d, chunk, dtype, device)

    def natural_parameters(self, em: dict[str, Any]) -> Tensor:
        variances, means = em["factors"].diagonal(dim1=1, dim2=2).square(), em["means"]
        squared = (means.square() / variances).sum(1) + (2 * math.pi * variances).log().sum(1)
        return torch.cat([(em["log_weights"] - 0.5 * squared)[:, None], means / variances, -0.5 / variances], 1)

    def moments(self, sums: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
        counts = sums[:, 0]
        averages = sums / counts[:, None].clamp(min=torch.finfo(sums.dtype).tiny)
        means = averages[:, 1 : 1 + d]
        return counts, means, torch.diag_embed(averages[:, 1 + d :] - means.square())

    def implied(self, em: dict[str, Any], ridge: Tensor) -> Tensor:
        means = em["means"]
        seconds = em["factors"].diagonal(dim1=1, dim2=2).square() - ridge.diagonal() + means.square()
        return em["log_weights"].exp()[:, None] * torch.cat([torch.ones_like(means[:, :1]), means, seconds], 1)

    def constrained(self, em: dict[str, Any], counts: Tensor, scatter: Tensor) -> Tensor:
        return torch.diag_embed(scatter.diagonal(dim1=1, dim2=2))


class Spherical(Diagonal):
    scaling = "common"

    def free(self, k: int, d: int) -> int:
        return k

    def constrained(self, em: dict[str, Any], counts: Tensor, scatter: Tensor) -> Tensor:
        variances = scatter.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
        return torch.diag_embed(variances.expand(-1, scatter.shape[1]))


class LowRank(Full):
    scaling = "axes"

    def least(self, d: int) -> int:
        return self.rank + 2

    def free(self, k: int, d: int) -> int:
        # Rotations of the factors leave W W^T as it is; with many factors every covariance is of that form.
        return k * min(d * self.rank - self.rank * (self.rank - 1) // 2 + d, d * (d + 1) // 2)

    def extras(self, k: int, d: int, like: Tensor) -> dict[str, Tensor]:
        return {"loadings": like.new_zeros(k, d, self.rank), "noise": like.new_zeros(k, d)}

    def begin(self, em: dict[str, Any], covariances: Tensor, generator: torch.Generator) -> Tensor:
        values, vectors = torch.linalg.eigh(covariances)
        rest = values[:, : -self.rank].mean(1, keepdim=True)
        leading = (values[:, -self.rank :] - rest).clamp(min=0)
        loadings = vectors[:, :, -self.rank :] * leading.sqrt()[:, None, :]
        noise = (covariances - loadings @ loadings.mT).diagonal(dim1=1, dim2=2).clamp(min=1e-6)
        drawn = torch.randn(loadings.shape, generator=generator, device=noise.device, dtype=noise.dtype)
        em["loadings"].copy_(loadings + _FIRST_LOADINGS * noise.sqrt()[:, :, None] * drawn)
        em["noise"].copy_(noise)
        return self.constrained(em, em["log_weights"].exp(), covariances)

    def constrained(self, em: dict[str, Any], counts: Tensor, scatter: Tensor) -> Tensor:
        loadings, noise = em["loadings"], em["noise"]
        for _ in range(_FACTOR_STEPS):
            loadings, noise = factor_step(loadings, noise, scatter)
        em["loadings"].copy_(loadings)
        em["noise"].copy_(noise)
        return loadings @ loadings.mT + torch.diag_embed(noise)

    def copy(self, em: dict[str, Any], target: int, source: int) -> None:
        em["loadings"][target], em["noise"][target] = em["loadings"][source], em["noise"][source]


STRUCTURES: dict[str, type[Full]] = {
    "full": Full,
    "tied": Tied,
    "diagonal": Diagonal,
    "spherical": Spherical,
    "low_rank": LowRank,
}


def factor_step(loadings: Tensor, noise: Tensor, scatter: Tensor) -> tuple[Tensor, Tensor]:
    """One EM step of factor analysers on scatter matrices: (k, d, r), (k, d), (k, d, d) -> (k, d, r), (k, d)."""
    eye = torch.eye(loadings.shape[2]).to(loadings)
    weighted = (loadings / noise[:, :, None]).mT
    regression = torch.linalg.solve(eye + weighted @ loadings, weighted)
    projected = regression @ scatter
    seconds = eye - regression @ loadings + projected @ regression.mT
    updated = torch.linalg.solve(seconds, projected).mT
    left = scatter.diagonal(dim1=1, dim2=2) - (updated * projected.mT).sum(2)
    return updated, left


class SquaresWorkspace(_em.Workspace):
    """The buffers of phi(z) = (1, z, z^2): 1 + 2 d features for each example instead of 1 + d + d (d + 1) / 2."""

    def __init__(self, components: int, dimension: int, chunk: int, dtype: torch.dtype, device: torch.device):
        self.chunk, self.dimension = chunk, dimension
        self._features = torch.ones(1 + 2 * dimension, chunk, dtype=dtype, device=device)
        self._scores = torch.empty(components, chunk, dtype=dtype, device=device)
        self._part = torch.empty(components, 1 + 2 * dimension, dtype=dtype, device=device)

    def expand(self, z: Tensor) -> Tensor:
        """phi(z), one column for each example: (m, d) -> (1 + 2 d, m). A view of the buffer; row 0 stays at 1."""
        features, d = self._features[:, : len(z)], self.dimension
        features[1 : 1 + d].copy_(z.T)
        torch.mul(features[1 : 1 + d], features[1 : 1 + d], out=features[1 + d :])
        return features
