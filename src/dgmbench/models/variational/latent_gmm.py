"""Mixture of Gaussians as a latent-variable model whose sum over the latent variable is known, with an encoder.

    p(x) = sum_z p(z) p(x given z),   z in {1, ..., K},   p(z = k) = pi_k,   p(x given z = k) = N(x; mu_k, Sigma_k)
    q(z = k given x) = softmax_k(V x' + c),   x' = (x - mean) / sd, or the posterior p(z given x) itself

p is fitted by EM as in `gmm`. Then the encoder is, at the optimum of the ELBO for that p, by L-BFGS from the linear
discriminant of the pooled covariance S,

    V_k = S^-1 mu_k,   c_k = log pi_k - mu_k.S^-1 mu_k / 2      (the posterior, if all covariances were S)
    log p(x) - ELBO = KL(q || p(z given x)),   d KL / d logit_k = q_k (log q_k - log p(x, k) - sum_j q_j (...))

Covariances that differ make log p(z = k given x) quadratic in x: q is then an approximation, and importance weights
p(x, z) / q(z given x) vary. With `proposal: posterior` they are p(x), whatever z.

In standard normal coordinates (`Decoder`) z is the first k with pi_1 + ... + pi_k >= Phi(u), u from N(0, 1): p(x given
u) is constant between jumps, and its gradient 0.

Reference: Habib, "My notes", chapter 8, sections 8.1 to 8.4: mixtures as latent-variable models, and importance
sampling of their sum; optimal q: Neal and Hinton, "A view of the EM algorithm", 1998.
"""

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy.optimize import minimize
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models.base import Decoder, Encoder, LatentVariable
from dgmbench.models.mixtures import gmm
from dgmbench.models.mixtures._components import Components
from dgmbench.models.mixtures._fitting import only_read, spread
from dgmbench.training.session import Session

SMOKE: dict = {**gmm.SMOKE, "encoder_iterations": 20}
_ENCODER_EXAMPLES = 20_000  # the encoder is fitted to so many training examples, evenly spaced


class Spec(gmm.Spec):
    proposal: Literal["encoder", "posterior"] = Field(
        "encoder", description="q(z given x): a softmax of linear functions of x, or the posterior itself."
    )
    encoder_iterations: int = Field(200, ge=0, description="L-BFGS iterations of the encoder; 0 for its start.")

    @model_validator(mode="after")
    def _iterations_are_read(self) -> Self:
        return only_read(self, self.proposal == "encoder", "with proposal: encoder", "encoder_iterations")


class Model(gmm.Model, LatentVariable, Encoder, Decoder):
    """`state` is that of the mixture, `encoder.weight` V (K, d) and `encoder.bias` c (K,) for x itself: float64."""

    Spec = Spec
    distributed = False  # the encoder's examples are not shared out

    def fit(self, data: Dataset, session: Session) -> None:
        """EM, then the encoder; history as in `gmm`."""
        super().fit(data, session)
        x = data.train.take(spread(len(data.train), _ENCODER_EXAMPLES), session.generator).to(self._components.means)
        self.weight, self.bias = self._fitted(x)

    def _fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_weights, means, factors = self._components
        mean, sd = x.mean(0), x.std(0).clamp_min(1e-6)
        pooled = torch.einsum("k,kij,klj->il", log_weights.exp(), factors, factors)
        slopes = torch.linalg.solve(pooled, (means - mean).T).T
        start = torch.cat((slopes * sd, (log_weights - 0.5 * (slopes * (means - mean)).sum(1))[:, None]), 1)
        features = torch.cat(((x - mean) / sd, torch.ones_like(x[:, :1])), 1)
        log_joint = self._log_joint(x).T

        def divergence(flat: np.ndarray) -> tuple[float, np.ndarray]:
            """Mean KL(q || p(z given x)) up to a constant, and its gradient."""
            parameters = torch.from_numpy(flat).to(start).view_as(start)
            log_q = torch.log_softmax(features @ parameters.T, 1)
            excess, q = log_q - log_joint, log_q.exp()
            each = (q * excess).sum(1, keepdim=True)
            gradient = (q * (excess - each)).T @ features / len(x)
            return each.mean().item(), gradient.flatten().cpu().numpy()

        found = start
        if self.spec.encoder_iterations and self.spec.proposal == "encoder":
            options = {"maxiter": self.spec.encoder_iterations}
            best = minimize(divergence, start.flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
            found = torch.from_numpy(best.x).to(start).view_as(start)
        weight = found[:, :-1] / sd
        return weight, found[:, -1] - weight @ mean

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"encoder.weight": self.weight, "encoder.bias": self.bias}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        if "encoder.weight" in state:  # the mixture alone is loaded first, before there is an encoder
            self.weight, self.bias = state["encoder.weight"], state["encoder.bias"]

    def log_posterior(self, x: Tensor) -> Tensor:
        """log q(z = k given x): (n, d) -> (K, n), float64."""
        if self.spec.proposal == "posterior":
            return torch.log_softmax(self._log_joint(x), 0)
        return torch.log_softmax(self.weight @ x.to(self.weight).T + self.bias[:, None], 0)

    def log_weights(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        log_q = self.log_posterior(x)
        z = torch.multinomial(log_q.exp().T, k, replacement=True, generator=generator).T
        return (self._log_joint(x) - log_q).gather(0, z)

    def posterior_means(self, x: Tensor, draws: int, generator: torch.Generator) -> list[Tensor]:
        """q(z = k given x) for each component, a one-hot z's mean: one layer."""
        return [self.log_posterior(x).exp().T]

    @property
    def latent_dimension(self) -> int:
        return 1

    def mean_x_given_u(self, u: Tensor) -> Tensor:
        return self._components.means[self.component(u)].to(u.dtype)

    def log_prob_x_given_u(self, x: Tensor, u: Tensor) -> Tensor:
        z, found = self.component(u), torch.empty(len(x)).to(self.weight)
        for k in z.unique():
            own = z == k
            found[own] = self._log_conditional(x[own].to(self.weight), k[None])[0]
        return found

    def log_prob_table(self, x: Tensor, u: Tensor) -> Tensor:
        distinct, place = self.component(u).unique(return_inverse=True)
        return self._log_conditional(x.to(self.weight), distinct)[place]

    def component(self, u: Tensor) -> Tensor:
        """z of standard normal coordinates: (n, 1) -> (n,)."""
        log_weights = self._components.log_weights
        share = torch.special.ndtr(u.detach()[:, 0].to(log_weights))
        return torch.searchsorted(log_weights.exp().cumsum(0), share).clamp_(max=len(log_weights) - 1)

    def _log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z = k): (n, d) -> (K, n), float64."""
        return torch.cat([scores for _, scores in self._components.chunked_scores(x)], 1)

    def _log_conditional(self, x: Tensor, some: Tensor) -> Tensor:
        """log p(x given z) for some of the components: (n, d) in float64, (m,) -> (m, n)."""
        components = Components(*(part[some] for part in self._components))
        return components.scores(x) - components.log_weights[:, None]
