"""Variational autoencoder with Gaussian latent variables, in one or two stochastic layers.

    p(x, z) = N(z; 0, I) p(x given z),    q(z given x) = N(z; mu(x), diag(sd(x)^2))
    ELBO(x) = E_q[log p(x given z)] - KL(q(z given x) || N(0, I)) <= log p(x)

Encoder and decoder are networks, mirror images of each other (`_autoencoder`, where the second layer is written out);
p(x given z) is Bernoulli, Gaussian or a squared error (`_outputs`). The ELBO is maximised by reparametrised draws, the
divergence of the highest layer in closed form or from the same draws. A warm-up gives the divergence a weight that
rises from 0 to 1: what is maximised is then no bound, and what is recorded is the bound all the same.

References: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, equations 3, 7 and 10; networks and
schedule of Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, section 5, whose VAE with
k samples averages them; warm-up of Sonderby et al., "Ladder variational autoencoders", NIPS 2016, section 2.3.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.models.variational._autoencoder import Autoencoder, AutoencoderSpec

SMOKE = {"latent": 2, "hidden": [8], "epochs": 3, "batch_size": 50, "validate_every": 1}


class Spec(AutoencoderSpec):
    samples_k: int = Field(1, ge=1, description="Draws of the latent variables that each example's ELBO is a mean of.")
    divergence: Literal["analytic", "sampled"] = Field(
        "analytic", description="The highest layer's KL term: in closed form given the layer below, or from the draws."
    )
    warm_up_epochs: int = Field(
        0, ge=0, description="Epochs over which the weight of the KL term rises in proportion from 0 to 1; 0 for none."
    )


class Model(Autoencoder):
    Spec = Spec

    def objective(self, x: Tensor, generator: torch.Generator, epochs: float) -> tuple[Tensor, Tensor]:
        """The ELBO with its divergence weighted by the warm-up, and the ELBO: (n, d) -> (n,) twice, nats."""
        closed_form = self.spec.divergence == "analytic"
        noise = self.noise(self.spec.samples_k, len(x), generator)
        log_likelihood, divergence = self.terms(x, noise, closed_form)
        weight = min(1.0, epochs / self.spec.warm_up_epochs) if self.spec.warm_up_epochs else 1.0
        return (log_likelihood - weight * divergence).mean(0), (log_likelihood - divergence).mean(0)
