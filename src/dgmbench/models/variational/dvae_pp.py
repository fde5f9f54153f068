"""DVAE++: a discrete variational autoencoder whose smoothing has overlapping densities, its binary variables kept.

    ELBO = E_q(zeta)[log p(x given zeta)] + E[H(q(z given x))] + E_q(zeta)[E_q(z given x, zeta)[log p(z)]] <= log p(x)
    q(zeta_i given x) = (1 - q_i) r(zeta_i given 0) + q_i r(zeta_i given 1),
    q(z_i = 1 given x, zeta) = sigmoid(logit q_i + log r(zeta_i given 1) - log r(zeta_i given 0))

The prior is the joint p(z) r(zeta given z), whose r cancels (p(z) and q: `_discrete`; the expectation: `JointPrior`).
As zeta does not tell z, nothing jumps, and all gradients are those of draws. With one group the last two terms are in
closed form. k draws are averaged: a bound by importance weights needs log p(zeta), which is what `dvae_sharp` has.

References: Vahdat, Macready, Bian, Khoshaman and Andriyash, "DVAE++: Discrete variational autoencoders with overlapping
transformations", ICML 2018; Vahdat, Andriyash and Macready, "DVAE#", NeurIPS 2018, equation 2 (exp) and equation 10
(power). That zeta moves the logits of the first half of the units alone, as here, is how the code beside it has it.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dgmbench.models.variational._boltzmann_prior import JointPrior
from dgmbench.models.variational._discrete import DiscreteAutoencoder
from dgmbench.models.variational._discrete_training import DiscreteSpec
from dgmbench.models.variational.smoothing.as_in_code import OffsetPowerFunction
from dgmbench.models.variational.smoothing.base import Smoothing
from dgmbench.models.variational.smoothing.exponential import Exponential
from dgmbench.models.variational.smoothing.power_function import PowerFunction

SMOKE = {"latent": 2, "groups": 2, "hidden": [8], "iterations": 12, "batch_size": 20, "chains": 20, "sweeps": 2} | {
    "validations": 3,
    "validation_temperatures": 20,
    "sample_sweeps": 20,
}


class Spec(DiscreteSpec):
    smoothing: Literal["exp", "power"] = Field(
        "power", description="r(zeta given z): two exponential densities on [0, 1], or two power functions."
    )

    @model_validator(mode="after")
    def _formulas_are_read(self) -> Self:
        if self.formulas == "code" and self.smoothing == "exp":
            raise ValueError("'formulas: code' changes nothing with smoothing: exp: leave it out")
        return self


class Model(DiscreteAutoencoder):
    Spec = Spec

    @property
    def method(self) -> str:
        return f"dvae++/{self.spec.smoothing}"

    @property
    def smoothing(self) -> Smoothing:
        if self.spec.smoothing == "exp":
            return Exponential(self.beta)
        return OffsetPowerFunction(self.beta) if self.slipped else PowerFunction(self.beta)

    def objective(self, x: Tensor, generator: torch.Generator, weight: float) -> tuple[Tensor, Tensor]:
        zeta, logits, _ = self.relaxed(x, self.spec.samples_k, generator)
        prior = JointPrior(self.machine, self.smoothing)
        if self.spec.groups == 1:
            logits = logits[:1]
            log_prior = prior.expected_log_unnormalised(logits)
        else:
            log_prior = prior.expected_log_unnormalised(logits, zeta)
        return self.averaged(x, zeta, logits, log_prior, weight)
