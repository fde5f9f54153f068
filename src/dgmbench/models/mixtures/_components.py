"""What every mixture of Gaussians does with its components: densities, restoration, completion of missing values.

    log pi_k N(x; mu_k, L_k L_k^T) = log pi_k - |L_k^-1 (x - mu_k)|^2 / 2 - log |L_k| - d/2 log 2 pi
    E[x given y = x + s n, k] = mu_k + S_k (S_k + s^2 I)^-1 (y - mu_k)
    x_M given x_O, k ~ N(mu_M + S_MO S_OO^-1 (x_O - mu_O), S_MM - S_MO S_OO^-1 S_OM)

Parameters are float64: log weights (k,), means (k, d), Cholesky factors (k, d, d).

Reference: Bishop, "Pattern Recognition and Machine Learning", 2006, section 2.3; restoration as in Zoran and Weiss,
"From learning models of natural image patches to whole image restoration", ICCV 2011, section 4.2.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dgmbench.data.prepared import Split
from dgmbench.models.density._gaussian import chunk_rows


class Components(NamedTuple):
    log_weights: Tensor
    means: Tensor
    factors: Tensor

    def blurred(self, noise_sd: float) -> "tuple[Components, Tensor]":
        """The mixture of y = x + noise_sd N(0, I), and the gains S_k (S_k + s^2 I)^-1: (k, d, d)."""
        covariances = self.factors @ self.factors.mT
        noise = noise_sd**2 * torch.eye(self.means.shape[1]).to(covariances)
        factors = torch.linalg.cholesky(covariances + noise)
        return Components(self.log_weights, self.means, factors), torch.cholesky_solve(covariances, factors).mT

    def scores(self, x: Tensor) -> Tensor:
        """log pi_k N(x_n; mu_k, L_k L_k^T): (m, d) -> (k, m), nats."""
        d = x.shape[1]
        identity = torch.eye(d).to(self.factors)
        log_volumes = self.factors.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * d * math.log(2 * math.pi)
        scores = x.new_empty(len(self.means), len(x))
        for k, factor in enumerate(self.factors):
            # One inverse of a triangle and a product: a third of the time of solving for every example.
            whitened = torch.linalg.solve_triangular(factor, identity, upper=False) @ (x - self.means[k]).T
            scores[k] = self.log_weights[k] - log_volumes[k] - 0.5 * whitened.square_().sum(0)
        return scores

    def chunked_scores(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Examples in float64 and their scores, chunk by chunk: (m, d), (k, m)."""
        for part in x.split(chunk_rows(self.means.shape[1])):
            exact = part.to(self.means)
            yield exact, self.scores(exact)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws: (n, d), float32."""
        options = {"generator": generator, "device": generator.device, "dtype": torch.float64}
        component = torch.searchsorted(self.log_weights.exp().cumsum(0), torch.rand(n, **options))
        component = component.clamp(max=len(self.log_weights) - 1)
        noise = torch.randn((n, self.means.shape[1]), **options)
        x = torch.empty(noise.shape, device=generator.device)
        for k in component.unique():
            own = component == k
            x[own] = (self.means[k] + noise[own] @ self.factors[k].T).float()
        return x

    def posterior_mean(self, y: Tensor, noise_sd: float) -> Tensor:
        """E[x given y], in closed form: the components' Wiener estimates, weighted by p(k given y)."""
        noisy, gains = self.blurred(noise_sd)
        restored = []
        for part, scores in noisy.chunked_scores(y):
            mean = torch.zeros_like(part)
            for k, own in enumerate(scores.softmax(0)):
                mean += own[:, None] * (self.means[k] + (part - self.means[k]) @ gains[k].T)
            restored.append(mean)
        return torch.cat(restored).to(y.dtype)

    def posterior_mode(self, y: Tensor, noise_sd: float) -> Tensor:
        """An approximation: the Wiener estimate of the component most probable given y (Zoran and Weiss, 4.2)."""
        noisy, gains = self.blurred(noise_sd)
        component = torch.cat([scores.argmax(0) for _, scores in noisy.chunked_scores(y)])
        exact = y.to(self.means)
        mode = torch.empty_like(exact)
        for k in component.unique():
            own = component == k
            mode[own] = self.means[k] + (exact[own] - self.means[k]) @ gains[k].T
        return mode.to(y.dtype)

    def complete(self, x: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
        """x with its unknown values drawn from p(x_unknown given x_known): (n, d), (d,) bool -> (n, d).

        The component is drawn from its posterior given the known values, then the values from its conditional.
        """
        missing = ~known
        exact = x.to(self.means)
        options = {"generator": generator, "device": generator.device, "dtype": torch.float64}
        uniform, noise = torch.rand(len(x), **options), torch.randn((len(x), int(missing.sum())), **options)
        covariances = self.factors @ self.factors.mT
        if bool(known.any()):
            factors = torch.linalg.cholesky(covariances[:, known][:, :, known])
            seen = Components(self.log_weights, self.means[:, known], factors)
            posterior = torch.cat([scores.softmax(0) for _, scores in seen.chunked_scores(exact[:, known])], 1)
        else:
            posterior = self.log_weights.softmax(0)[:, None].expand(-1, len(x))
        component = (posterior.cumsum(0) < uniform).sum(0).clamp(max=len(self.means) - 1)
        completed = exact.clone()
        for k in component.unique():
            own = (component == k).nonzero()[:, 0]
            mean, rest = self.means[k, missing].expand(len(own), -1), covariances[k][missing][:, missing]
            if bool(known.any()):
                cross = covariances[k][missing][:, known]
                gain = torch.cholesky_solve(cross.T, factors[k]).T
                mean, rest = mean + (exact[own][:, known] - self.means[k, known]) @ gain.T, rest - gain @ cross.T
            root = torch.linalg.cholesky(rest) if bool(missing.any()) else rest
            completed[own[:, None], missing.nonzero()[:, 0]] = mean + noise[own] @ root.T
        return completed.to(x.dtype)


def whitened(split: Split, rows: Tensor, mean: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """z = scale^-1 (x - mean) of some rows, the one copy of the data that training holds: (m,) -> (m, d)."""
    z = torch.empty(len(rows), len(mean), dtype=dtype, device=mean.device)
    for part, out in zip(rows.split(chunk_rows(len(mean))), z.split(chunk_rows(len(mean))), strict=True):
        centred = split.take(part).to(mean) - mean
        out.copy_(torch.linalg.solve_triangular(scale, centred.T, upper=False).T)
    return z
