"""Importance-weighted autoencoder: the variational autoencoder's networks, trained on a tighter bound.

    L_k(x) = E[log (1/k) sum_i w_i],   w_i = p(x, z_i) / q(z_i given x),   z_1, ..., z_k from q(. given x)
    gradient of L_k = E[sum_i (w_i / sum_j w_j) gradient of log w_i],   z_i = mu(x) + sd(x) noise_i
    ELBO = L_1 <= L_k <= L_{k+1} <= log p(x)

Differentiating the logarithm of the mean weight through reparametrised draws gives that gradient. With fewer
`gradient_draws` it is a mean over so many i, drawn by the normalised weights, of the gradient of log w_i: the same in
expectation, and of k passes backwards, which cost twice those forwards, only so many are left. Two stochastic layers
and the distributions of x given z are those of `vae`; with k = 1 this is the VAE whose divergence is sampled.

Reference: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, section 3, equations 8, 13
and 14; networks and schedule of section 5.
"""

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.models.variational._autoencoder import Autoencoder, AutoencoderSpec
from dgmbench.models.variational._training import log_mean_exp

SMOKE = {"latent": 2, "hidden": [8], "samples_k": 3, "epochs": 3, "batch_size": 50, "validate_every": 1}


class Spec(AutoencoderSpec):
    samples_k: int = Field(5, ge=1, description="Importance samples k of the bound that is maximised.")
    gradient_draws: int | None = Field(
        None,
        ge=1,
        description="Where there are more samples, the gradient is taken through so many of them, drawn by their "
        "weights: the same in expectation, noisier, and less work. null: through all.",
    )


class Model(Autoencoder):
    Spec = Spec

    @classmethod
    def passes(cls, spec: Spec) -> float:
        through = min(spec.gradient_draws or spec.samples_k, spec.samples_k)
        return spec.epochs * (spec.samples_k + (3.0 if through < spec.samples_k else 2.0) * through)

    def objective(self, x: Tensor, generator: torch.Generator, epochs: float) -> tuple[Tensor, Tensor]:
        """The bound is one draw of log (1/k) sum_i w_i for each example; so is the objective where the gradient
        is taken through all.

        (n, d) -> (n,) twice, nats.
        """
        noise = self.noise(self.spec.samples_k, len(x), generator)
        draws = self.spec.gradient_draws
        if draws is not None and draws < self.spec.samples_k:
            return self._through_some(x, noise, draws, generator)
        log_likelihood, divergence = self.terms(x, noise)
        bound = log_mean_exp(log_likelihood - divergence)
        return bound, bound

    def _through_some(
        self, x: Tensor, noise: list[Tensor], draws: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The mean of log w_i over draws of i, whose gradient stands for the bound's; the bound: (n,) twice, nats."""
        with torch.no_grad():
            log_likelihood, divergence = self.terms(x, noise)
            log_weights = log_likelihood - divergence
            bound = log_mean_exp(log_weights)
            if not bool(bound.isfinite().all()):  # nothing can be drawn: the training ends as diverged
                return bound, bound
            chosen = torch.multinomial(log_weights.softmax(0).T, draws, replacement=True, generator=generator).T
        examples = torch.arange(len(x), device=x.device)
        log_likelihood, divergence = self.terms(x, [part[chosen, examples] for part in noise])
        return (log_likelihood - divergence).mean(0), bound
