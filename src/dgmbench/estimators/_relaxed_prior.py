"""A trained machine as the Boltzmann prior of discrete latent variables, with a posterior to draw zeta from.

    p(zeta) = sum_z p(z) r(zeta given z),    z = (v, h) of a restricted Boltzmann machine, p(z) = exp(-E(z)) / Z
    q(zeta given x) = prod_i (1 - q_i) r(zeta_i given 0) + q_i r(zeta_i given 1)
    log-odds of q(h given x) = b + x W,    log-odds of q(v given x) = a + W sigmoid(b + x W)

In a discrete variational autoencoder an encoder's network gives the log-odds; here one pass of the machine's own means
up and down does, so that q says about z what the machine believes of an example. No decoder stands behind it.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, sections 3.1 and 4.
"""

from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import EstimatorSettings
from dgmbench.models.base import Energy
from dgmbench.models.boltzmann._bipartite import Bipartite
from dgmbench.models.variational._boltzmann_prior import OverlappingRelaxation
from dgmbench.models.variational.smoothing.base import Smoothing
from dgmbench.models.variational.smoothing.families import Mirrored, smoothing

_PARAMETERS = ("weights", "visible_bias", "hidden_bias")


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
    """The relaxed prior, and the log-odds of q(z given x) for n examples: (n, D), the visible units first."""

    prior: OverlappingRelaxation
    logits: Tensor

    def draw(self, generator: torch.Generator) -> Tensor:
        """zeta from q(zeta given x), with its gradients where the log-odds ask for them: (n, D)."""
        return self.prior.smoothing.sample(self.logits, generator)


def relaxed_machine(model: Energy, x: Tensor, settings: RelaxedSettings) -> RelaxedMachine:
    """In float64, on the device of the model.

    Raises:
        CannotBeDone: the model is not one machine of two sides of binary units.
    """
    state = model.state()
    if model.accepts != {"binary"} or not set(_PARAMETERS) <= state.keys():
        raise CannotBeDone(
            "only a restricted Boltzmann machine on binary data stands for a Boltzmann prior here: write 'model: rbm' "
            "in the row, or take the evaluation out of it."
        )
    weights, own, other = (state[name].detach().double() for name in _PARAMETERS)
    machine = Bipartite(weights, own, other)
    of_other = machine.other_input(x.to(weights))
    of_own = machine.own_input(torch.sigmoid(of_other))
    prior = OverlappingRelaxation(machine, settings.formed(), max_iterations=settings.rounds)
    return RelaxedMachine(prior, torch.cat([of_own, of_other], 1))
