"""A trained machine as the Boltzmann prior of binary units, with a posterior to draw zeta from.

    p(zeta) = sum_z p(z) r(zeta given z),    p(z) = exp(-E(z)) / Z
    q(zeta given x) = prod_i (1 - q_i) r(zeta_i given 0) + q_i r(zeta_i given 1)

In a discrete variational autoencoder an encoder gives the log-odds of q, and a decoder stands behind zeta. A restricted
Boltzmann machine, z = (v, h), stands for one without a decoder: see its `posterior_log_odds`.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, sections 3.1 and 4.
"""

from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dgmbench.estimators.base import EstimatorSettings
from dgmbench.models.base import BinaryLatents
from dgmbench.models.boltzmann._bipartite import Bipartite
from dgmbench.models.variational._boltzmann_prior import OverlappingRelaxation
from dgmbench.models.variational.smoothing.base import Smoothing
from dgmbench.models.variational.smoothing.families import Mirrored, smoothing


class RelaxedSettings(EstimatorSettings):
    """Which smoothing relaxes the prior, and how long its mean field runs."""

    smoothing: Mirrored = Field("exponential", description="The family of r(zeta given z).")
    beta: float = Field(10.0, gt=0, description="Its inverse temperature; above 1 for the power function.")
    epsilon: float = Field(
        0.05, gt=0, lt=1, description="Of uniform_exponential alone: the weight of the uniform density."
    )
    rounds: int = Field(5, ge=1, description="Rounds of mean field.")

    @model_validator(mode="after")
    def _can_be_formed(self) -> "RelaxedSettings":
        self.formed()
        return self

    def formed(self) -> Smoothing:
        return smoothing(self.smoothing, self.beta, self.epsilon)


@dataclass(frozen=True)
class RelaxedMachine:
    """The relaxed prior, and the log-odds of q(z given x) for n examples: (n, D)."""

    prior: OverlappingRelaxation
    logits: Tensor

    def draw(self, generator: torch.Generator) -> Tensor:
        """zeta from q(zeta given x), with its gradients where the log-odds ask for them: (n, D)."""
        return self.prior.smoothing.sample(self.logits, generator)


def relaxed_machine(
    model: BinaryLatents, x: Tensor, settings: RelaxedSettings, generator: torch.Generator
) -> RelaxedMachine:
    """In float64, on the device of the model."""
    machine = Bipartite(*(part.detach().double() for part in model.couplings()))
    prior = OverlappingRelaxation(machine, settings.formed(), max_iterations=settings.rounds)
    return RelaxedMachine(prior, model.posterior_log_odds(x, generator).double())
