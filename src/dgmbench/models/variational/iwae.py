"""Importance-weighted autoencoder: the variational autoencoder's networks, trained on a tighter bound.

    L_k(x) = E[log (1/k) sum_i w_i],   w_i = p(x, z_i) / q(z_i given x),   z_1, ..., z_k from q(. given x)
    gradient of L_k = E[sum_i (w_i / sum_j w_j) gradient of log w_i],   z_i = mu(x) + sd(x) noise_i
    ELBO = L_1 <= L_k <= L_{k+1} <= log p(x)

Differentiating the logarithm of the mean weight through reparametrised draws gives that gradient (`gradient: all`).
`gradient: one` takes the gradient of one log w_i in place of their mean, i drawn by the normalised weights: the same in
expectation, for k passes forwards and one backwards, where all would have k backwards, at twice the cost. Two
stochastic layers and the distributions of x given z are those of `vae`; with k = 1 this is the VAE whose divergence is
sampled.

Reference: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, section 3, equations 8, 13
and 14; networks and schedule of section 5.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.models.variational._autoencoder import Autoencoder, AutoencoderSpec
from dgmbench.models.variational._training import log_mean_exp

SMOKE = {"latent": 2, "hidden": [8], "samples_k": 3, "epochs": 3, "batch_size": 50, "validate_every": 1}


class Spec(AutoencoderSpec):
    samples_k: int = Field(5, ge=1, description="Importance samples k of the bound that is maximised.")
    gradient: Literal["all", "one"] = Field(
        "all",
        description="all: the bound's, through all draws. one: that of a single draw, drawn by the normalised weights; "
        "the same in expectation, noisier, and with many draws a third of the work.",
    )


class Model(Autoencoder):
    Spec = Spec

    def objective(self, x: Tensor, generator: torch.Generator, epochs: float) -> tuple[Tensor, Tensor]:
        """The bound is one draw of log (1/k) sum_i w_i for each example; so is the objective where `gradient` is all.

        (n, d) -> (n,) twice, nats.
        """
        noise = self.noise(self.spec.samples_k, len(x), generator)
        if self.spec.gradient == "one":
            return self._through_one_draw(x, noise, generator)
        log_likelihood, divergence = self.terms(x, noise)
        bound = log_mean_exp(log_likelihood - divergence)
        return bound, bound

    def _through_one_draw(self, x: Tensor, noise: list[Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """log w_i of the draw whose gradient stands for that of all, and the bound of all draws: (n,) twice, nats."""
        with torch.no_grad():
            log_likelihood, divergence = self.terms(x, noise)
            log_weights = log_likelihood - divergence
            chosen = torch.multinomial(log_weights.softmax(0).T, 1, generator=generator)[:, 0]
        examples = torch.arange(len(x), device=x.device)
        log_likelihood, divergence = self.terms(x, [part[chosen, examples][None] for part in noise])
        return (log_likelihood - divergence)[0], log_mean_exp(log_weights)
