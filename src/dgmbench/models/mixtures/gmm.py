"""Mixture of Gaussians with full covariances, by expectation maximisation.

    p(x) = sum_k pi_k N(x; mu_k, Sigma_k)
    E:  r_nk = pi_k N(x_n; mu_k, Sigma_k) / p(x_n)
    M:  pi_k = mean_n r_nk,  mu_k = sum_n r_nk x_n / sum_n r_nk,
        Sigma_k = sum_n r_nk (x_n - mu_k)(x_n - mu_k)^T / sum_n r_nk + ridge I

Reference: Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm", Journal of the
Royal Statistical Society B 39(1), 1977; Bishop, "Pattern Recognition and Machine Learning", section 9.2.2. As a prior
of image patches: Zoran and Weiss, "From learning models of natural image patches to whole image restoration", ICCV
2011, section 4.2.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.models import base
from dgmbench.models._kmeans import draw_seed, kmeans
from dgmbench.models.density._gaussian import cholesky_factor, chunk_rows, mean_and_covariance
from dgmbench.models.mixtures._em import Workspace, moments, natural_parameters
from dgmbench.training.session import Session

SMOKE: dict = {"components": 3, "iterations": 6, "tolerance": 0.0, "start_examples": 200}

_CHUNK = 2048
_VALIDATION_EXAMPLES = 20_000
_KMEANS_ITERATIONS = 20
# A component whose variance, in some direction, is below this share of the data's has collapsed onto a subspace.
_COLLAPSED = 1e-12
# The E-step's own precision is compared with float64 at every iteration; more than this is refused.
_ROUNDING_NATS = 0.05
_PROBED = 500


class Spec(base.ModelSpec):
    components: int = Field(10, ge=1, description="Number of Gaussians.")
    iterations: int = Field(100, ge=1, description="Most EM iterations.")
    tolerance: float = Field(
        1e-4,
        ge=0,
        description="EM stops where the mean training log-likelihood, in nats, moves by less than this; 0 for never.",
    )
    ridge: float = Field(
        0.0, ge=0, description="Variance added to every direction of every component, in the data's units squared."
    )
    start: Literal["kmeans", "random"] = Field(
        "kmeans",
        description="First components: clusters of whitened examples, or random examples with the data's covariance.",
    )
    start_examples: int = Field(50_000, ge=1, description="How many training examples k-means sees.")
    precision: Literal["float32", "float64"] = Field(
        "float32", description="Arithmetic of the E-step's features; sums over examples are float64 in any case."
    )


class Model(base.Model, base.Density, base.Sampler, base.Clusterer, base.PatchPrior):
    Spec = Spec
    accepts = frozenset({"unit", "real"})

    @classmethod
    def operations(cls, spec: Spec, dimension: int) -> float:
        return float(spec.components * dimension**2)

    @classmethod
    def passes(cls, spec: Spec) -> float:
        return float(spec.iterations)

    def fit(self, data: Dataset, session: Session) -> None:
        """EM on data whitened by their own mean and covariance, which keeps float32 features precise.

        Each iteration records, of the parameters that it starts from: the mean `log_likelihood` of the training data
        and `validation_log_likelihood` of at most 20,000 evenly spaced validation examples (nats of the data's own
        space), `rounding` (mean absolute difference between the E-step's log p and float64, nats), and how many
        `empty_components` it re-seeded: one with fewer than d + 1 examples starts again as a half of the largest.

        Raises:
            CannotBeDone: too few examples; a singular covariance (says which ridge to set); float32 too coarse.
        """
        spec, dimension, count = self.spec, self.dimension, len(data.train)
        if count < spec.components * (dimension + 1):
            raise CannotBeDone(
                f"{spec.components} components in {dimension} dimensions need {spec.components * (dimension + 1):,} "
                f"training examples, not {count:,}: set fewer components."
            )
        mean, covariance = mean_and_covariance(data.train, session.device)
        covariance.diagonal().add_(spec.ridge)
        scale = cholesky_factor(covariance, "the training data")
        dtype = getattr(torch, spec.precision)
        z = _whitened(data.train, slice(None), mean, scale, dtype)
        spread = torch.linspace(0, len(data.validation) - 1, min(_VALIDATION_EXAMPLES, len(data.validation)))
        z_validation = _whitened(data.validation, spread.round().long(), mean, scale, dtype)
        log_volume = float(scale.diagonal().log().sum())
        inverse = torch.linalg.solve_triangular(scale, torch.eye(dimension).to(scale), upper=False)
        ridge = spec.ridge * inverse @ inverse.T
        advice = max(1e-6 * float(covariance.diagonal().mean()), 10 * spec.ridge)
        probe = z[:: max(1, count // _PROBED)]
        workspace = Workspace(spec.components, dimension, _CHUNK, dtype, session.device)

        em = self._blank(session) if session.resumable else self._start(z, ridge, workspace, session)
        session.track(em=em)
        for _ in session.steps(spec.iterations, unit="iteration"):
            if em["stop"]:
                break
            theta = natural_parameters(em["log_weights"], em["means"], em["factors"])
            rounding = self._rounding(em, workspace.log_prob(probe, theta), probe)
            log_likelihood, sums = workspace.accumulate(z, theta)
            validation = float(workspace.log_prob(z_validation, theta).mean(dtype=torch.float64))
            empty = self._maximise(em, sums, ridge, advice, session.generator)
            session.record(
                log_likelihood=log_likelihood - log_volume,
                validation_log_likelihood=validation - log_volume,
                rounding=rounding,
                empty_components=empty,
            )
            # Stopping is noted for the next step to see, so that this one still closes its row of the history.
            em["stop"] = empty == 0 and abs(log_likelihood - em["previous"]) < spec.tolerance
            em["previous"] = log_likelihood
        self.load_state(
            {
                "log_weights": em["log_weights"],
                "means": mean + em["means"] @ scale.T,
                "factors": scale @ em["factors"],
            }
        )

    def _rounding(self, em: dict[str, Any], log_prob: Tensor, z: Tensor) -> float:
        """Mean absolute difference between the E-step's log p(z) and float64, nats."""
        exact = _log_mixture(z.double(), em["log_weights"], em["means"], em["factors"]).logsumexp(0)
        rounding = float((log_prob - exact).abs().mean())
        if rounding > _ROUNDING_NATS:
            raise CannotBeDone(
                f"{self.spec.precision} features are off by {rounding:.2g} nats because components are very narrow: "
                "set precision to float64, or a larger ridge."
            )
        return rounding

    def _blank(self, session: Session) -> dict[str, Any]:
        """What EM carries from step to step, before it is restored: parameters of whitened data, in float64."""
        k, d = self.spec.components, self.dimension
        shapes = {"log_weights": (k,), "means": (k, d), "factors": (k, d, d)}
        tensors = {
            name: torch.zeros(shape, dtype=torch.float64, device=session.device) for name, shape in shapes.items()
        }
        return {**tensors, "previous": -math.inf, "stop": False}

    def _start(self, z: Tensor, ridge: Tensor, workspace: Workspace, session: Session) -> dict[str, Any]:
        em, generator, k = self._blank(session), session.generator, self.spec.components
        order = torch.randperm(len(z), generator=generator, device=z.device)
        em["log_weights"].fill_(-math.log(k))
        em["means"].copy_(z[order[:k]])
        em["factors"].copy_(torch.eye(self.dimension))
        if self.spec.start == "kmeans":
            seen = z[order[: max(self.spec.start_examples, k)].sort().values]
            _, labels, _ = kmeans(seen.float().cpu().numpy(), k, _KMEANS_ITERATIONS, draw_seed(generator))
            sums = workspace.sums_of_labels(seen, torch.from_numpy(labels).to(z.device))
            # Each cluster is joined by d + 1 examples of the data's own covariance: small ones stay proper.
            counts, means, covariances = moments(sums, self.dimension)
            prior = self.dimension + 1
            shrunk = (counts[:, None, None] * covariances + prior * torch.eye(self.dimension).to(ridge)) / (
                counts[:, None, None] + prior
            )
            em["means"].copy_(means)
            em["factors"].copy_(torch.linalg.cholesky(shrunk + ridge))
            em["log_weights"].copy_(((counts + 1) / (counts + 1).sum()).log())
        return em

    def _maximise(
        self, em: dict[str, Any], sums: Tensor, ridge: Tensor, advice: float, generator: torch.Generator
    ) -> int:
        """The M-step, in place; returns how many components were re-seeded. `advice` is the ridge to write instead."""
        counts, means, covariances = moments(sums, self.dimension)
        covariances = covariances + ridge
        least = self.dimension + 1
        empty = (counts < least).nonzero().flatten()
        for k in empty:
            # The halves of the largest component drift apart from here: a little in place, a little in scale.
            largest = counts.argmax()
            direction = torch.randn(self.dimension, generator=generator, device=counts.device, dtype=counts.dtype)
            offset = 0.5 * torch.linalg.cholesky_ex(covariances[largest]).L @ (direction / direction.norm())
            ratio = math.exp(1 / math.sqrt(self.dimension))
            counts[k] = counts[largest] = counts[largest] / 2
            means[k], means[largest] = means[largest] + offset, means[largest] - offset
            covariances[k], covariances[largest] = covariances[largest] * ratio, covariances[largest] / ratio
        factors, failed = torch.linalg.cholesky_ex(covariances)
        narrowest = factors.diagonal(dim1=1, dim2=2).amin(1).square()
        collapsed = (failed > 0) | ~(narrowest > _COLLAPSED)
        if bool(collapsed.any()):
            raise CannotBeDone(
                f"{int(collapsed.sum())} of {len(collapsed)} components collapsed: their covariance is not positive "
                f"definite with ridge {self.spec.ridge:g} in {self.spec.precision}. Set ridge to {advice:.1g} or more"
                + (", or precision to float64." if self.spec.precision == "float32" else ", or fewer components.")
            )
        em["log_weights"].copy_((counts / counts.sum()).log())
        em["means"].copy_(means)
        em["factors"].copy_(factors)
        return len(empty)

    def state(self) -> dict[str, Tensor]:
        """`log_weights` (k,), `means` (k, d), and `factors` (k, d, d) with Sigma_k = factor factor^T, in float64."""
        return {"log_weights": self._log_weights, "means": self._means, "factors": self._factors}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._log_weights, self._means, self._factors = state["log_weights"], state["means"], state["factors"]

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.cat([scores.logsumexp(0) for scores in self._scores(x)])

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        options = {"generator": generator, "device": generator.device, "dtype": torch.float64}
        component = torch.searchsorted(self._log_weights.exp().cumsum(0), torch.rand(n, **options))
        component = component.clamp(max=len(self._log_weights) - 1)
        noise = torch.randn((n, self.dimension), **options)
        x = torch.empty(n, self.dimension, device=generator.device)
        for k in component.unique():
            own = component == k
            x[own] = (self._means[k] + noise[own] @ self._factors[k].T).float()
        return x

    def assign(self, x: Tensor) -> Tensor:
        """The component of largest responsibility."""
        return torch.cat([scores.argmax(0) for scores in self._scores(x)])

    def posterior_mean(self, y: Tensor, noise_sd: float) -> Tensor:
        """E[x given y], in closed form: the components' Wiener estimates, weighted by p(k given y)."""
        gains, noisy_factors = self._wiener(noise_sd)
        restored = []
        for scores, part in zip(self._scores(y, noisy_factors), y.split(chunk_rows(self.dimension)), strict=True):
            part, responsibilities = part.to(self._means), scores.softmax(0)
            mean = torch.zeros_like(part)
            for k, own in enumerate(responsibilities):
                mean += own[:, None] * (self._means[k] + (part - self._means[k]) @ gains[k].T)
            restored.append(mean)
        return torch.cat(restored).to(y.dtype)

    def posterior_mode(self, y: Tensor, noise_sd: float) -> Tensor:
        """An approximation: the Wiener estimate of the component most probable given y (Zoran and Weiss, 4.2)."""
        gains, noisy_factors = self._wiener(noise_sd)
        component = torch.cat([scores.argmax(0) for scores in self._scores(y, noisy_factors)])
        exact = y.to(self._means)
        mode = torch.empty_like(exact)
        for k in component.unique():
            own = component == k
            mode[own] = self._means[k] + (exact[own] - self._means[k]) @ gains[k].T
        return mode.to(y.dtype)

    def _wiener(self, noise_sd: float) -> tuple[Tensor, Tensor]:
        """Gains Sigma_k (Sigma_k + s^2 I)^-1 and Cholesky factors of Sigma_k + s^2 I: (k, d, d) each."""
        covariances = self._factors @ self._factors.mT
        noisy_factors = torch.linalg.cholesky(covariances + noise_sd**2 * torch.eye(self.dimension).to(covariances))
        return torch.cholesky_solve(covariances, noisy_factors).mT, noisy_factors

    def _scores(self, x: Tensor, factors: Tensor | None = None) -> Iterator[Tensor]:
        """log pi_k N(x; mu_k, Sigma_k), chunk by chunk of examples: (k, m) each, in float64."""
        factors = self._factors if factors is None else factors
        for part in x.split(chunk_rows(self.dimension)):
            yield _log_mixture(part.to(self._means), self._log_weights, self._means, factors)


def _log_mixture(x: Tensor, log_weights: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """log pi_k N(x_n; mu_k, L_k L_k^T): (m, d) -> (k, m), nats."""
    identity = torch.eye(x.shape[1]).to(factors)
    constants = log_weights - factors.diagonal(dim1=1, dim2=2).log().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)
    scores = x.new_empty(len(means), len(x))
    for k, factor in enumerate(factors):
        # One inverse of a triangle and a product: a third of the time of solving for every example.
        whitened = torch.linalg.solve_triangular(factor, identity, upper=False) @ (x - means[k]).T
        scores[k] = constants[k] - 0.5 * whitened.square_().sum(0)
    return scores


def _whitened(split: Split, index: Tensor | slice, mean: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """z = scale^-1 (x - mean), the one copy of the data that training holds: (n, d)."""
    rows = torch.arange(len(split))[index]
    z = torch.empty(len(rows), len(mean), dtype=dtype, device=mean.device)
    for part, out in zip(rows.split(chunk_rows(len(mean))), z.split(chunk_rows(len(mean))), strict=True):
        centred = split.take(part).to(mean) - mean
        out.copy_(torch.linalg.solve_triangular(scale, centred.T, upper=False).T)
    return z
