"""Importance-weighted autoencoder: the variational autoencoder's networks, trained on a tighter bound.

    L_k(x) = E[log (1/k) sum_i w_i],   w_i = p(x, z_i) / q(z_i given x),   z_1, ..., z_k from q(. given x)
    gradient of L_k = E[sum_i (w_i / sum_j w_j) gradient of log w_i],   z_i = mu(x) + sd(x) noise_i
    ELBO = L_1 <= L_k <= L_{k+1} <= log p(x)

Differentiating the logarithm of the mean weight through reparametrised draws gives that gradient. Two stochastic layers
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


class Model(Autoencoder):
    Spec = Spec

    def objective(self, x: Tensor, generator: torch.Generator, epochs: float) -> tuple[Tensor, Tensor]:
        """One draw of log (1/k) sum_i w_i for each example, which is objective and bound: (n, d) -> (n,) twice."""
        log_likelihood, divergence = self.terms(x, self.spec.samples_k, generator)
        bound = log_mean_exp(log_likelihood - divergence)
        return bound, bound
