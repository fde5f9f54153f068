"""How discrete variational autoencoders are trained: Adam, schedules that stretch with `iterations`, sharpness.

    learning rate / 3e-3 = 1/10 to 2 % of all updates, 1 to 60 %, 1/3 to 75 %, 1/10 to 95 %, then 1/33
    c = min(1, t / (warm_up T)), the weight of the divergence and of the prior's negative phase at update t of T
    penalty = (weight_decay / 2) sum |W|^2, over kernels, scales of hidden layers and the prior's weights, not biases

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, section 4, which takes them from DVAE++ (Vahdat et al., ICML 2018, section 7.2); the numbers, and the
sharpness that cross-validation chose for each smoothing and structure, are those of the code beside it.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from dgmbench.models.base import ModelSpec
from dgmbench.models.variational._normalised_networks import NormalisedNetworks

_RATES = ((0.02, 0.1), (0.6, 1.0), (0.75, 1 / 3), (0.95, 0.1), (1.0, 1 / 33))
# Method and smoothing -> beta of linear networks, of nonlinear ones in one group, and of more groups.
_BETA = {
    "mnist": {
        "dvae/spike-exp": (5, 5, 4),
        "dvae++/exp": (12, 14, 10),
        "dvae++/power": (40, 30, 30),
        "dvae#/gaussian-integral": (40, 30, 30),
        "dvae#/gaussian": (40, 30, 25),
        "dvae#/exp": (12, 12, 10),
        "dvae#/uniform-exp": (40, 30, 16),
        "dvae#/power": (40, 40, 30),
    },
    "omniglot": {
        "dvae/spike-exp": (4, 4, 4),
        "dvae++/exp": (14, 12, 10),
        "dvae++/power": (40, 40, 30),
        "dvae#/gaussian-integral": (40, 30, 25),
        "dvae#/gaussian": (40, 25, 25),
        "dvae#/exp": (12, 10, 8),
        "dvae#/uniform-exp": (40, 16, 16),
        "dvae#/power": (40, 30, 20),
    },
}


class DiscreteSpec(ModelSpec):
    groups: int = Field(1, ge=1, description="Groups G of q(z given x), each conditioned on x and the groups before.")
    latent: int = Field(
        200,
        ge=1,
        description="Binary latent variables of each group. The prior's machine has those of all groups on its two "
        "sides: the first half, of an odd number the smaller, and the second.",
    )
    hidden: list[int] = Field(
        [],
        description="Hidden units, from x towards z, of each group's encoder; reversed, of the decoder. []: linear. "
        "Structures of the DVAE# paper: 1 -: groups 1, latent 200, hidden []; 1 ~: the same, hidden [200, 200]; 2 ~: "
        "groups 2; 4 ~: groups 4, latent 100.",
    )
    normalise: bool = Field(True, description="Normalise hidden layers over the minibatch.")
    samples_k: int = Field(1, ge=1, description="Draws of the latent variables for each example of an update.")
    beta: float | None = Field(
        None,
        gt=0,
        description="Sharpness of the smoothing; null: the published choice for it and the structure, on OMNIGLOT that "
        "for OMNIGLOT, on all other data that for MNIST (4 to 5 for dvae, 10 to 14 for exp, 16 to 40 for the others). "
        "The power function takes one above 1.",
    )
    iterations: int = Field(100_000, ge=1, description="Updates, over which the schedules stretch; published: 1e6.")
    stop_after: int | None = Field(
        None,
        ge=1,
        description="Stop after so many of the iterations, schedules as they are: what is kept is the state of then. "
        "null: all of them, and what is kept is the state with the best validation bound.",
    )
    batch_size: int = Field(100, ge=1, description="Examples in a minibatch; the last, smaller one is left out.")
    learning_rate: float = Field(
        3e-3,
        gt=0,
        description="Adam's step size between 2 and 60 % of the updates; always a tenth of it before, falling after.",
    )
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Adam's decay of the first moment.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Adam's decay of the second moment.")
    adam_epsilon: float = Field(1e-3, gt=0, description="Adam's epsilon.")
    warm_up: float = Field(
        0.3, ge=0, le=1, description="Share of the updates over which the weight of the divergence rises from 0 to 1."
    )
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty on weights and scales, not on biases.")
    negative_phase: Literal["pcd", "population"] = Field(
        "pcd", description="Persistent chains, or a population that is resampled by how the last update weighs it."
    )
    chains: int = Field(1000, ge=1, description="Chains, or members of the population.")
    sweeps: int = Field(40, ge=1, description="Block Gibbs sweeps of every chain for each update.")
    validations: int = Field(
        50, ge=1, description="Evenly spread measurements of the validation bound; the best is kept."
    )
    validation_examples: int = Field(2000, ge=1, description="The bound is measured on the first so many examples.")
    validation_k: int = Field(10, ge=1, description="Importance samples of the validation bound.")
    validation_temperatures: int = Field(
        1000, ge=2, description="Temperatures of the annealing that gives its log Z, with as many chains as training."
    )
    formulas: Literal["paper", "code"] = Field(
        "paper",
        description="Where the code published beside DVAE# computes something else than the paper, which of the two.",
    )
    sample_sweeps: int = Field(1000, ge=1, description="Gibbs sweeps of the prior before a sample is decoded.")

    @model_validator(mode="after")
    def _two_sides(self) -> Self:
        if self.groups * self.latent < 2:
            raise ValueError("the prior has two sides of at least one unit: set 'latent' or 'groups' to 2 or more")
        if any(units < 1 for units in self.hidden):
            raise ValueError("'hidden' lists numbers of units, each 1 or more; [] for linear networks")
        if self.stop_after is not None and self.stop_after > self.iterations:
            raise ValueError(f"'stop_after' is at most 'iterations', here {self.iterations}; null for all of them")
        if not self.hidden and not self.normalise:
            raise ValueError("'normalise' is read only with hidden units: leave it out")
        return self


def sharpness(spec: DiscreteSpec, method: str, dataset: str) -> float:
    """beta of the spec, or where that is null the published one of a method such as `dvae#/power`."""
    if spec.beta is not None:
        return spec.beta
    column = 2 if spec.groups > 1 else 1 if spec.hidden else 0
    return float(_BETA["omniglot" if dataset.startswith("omniglot") else "mnist"][method][column])


def learning_rate(spec: DiscreteSpec, step: int) -> float:
    """Adam's step size at one of the spec's iterations."""
    done = step / spec.iterations
    return spec.learning_rate * next(factor for end, factor in _RATES if done < end)


def divergence_weight(spec: DiscreteSpec, step: int) -> float:
    """c of the module's docstring."""
    rising = spec.warm_up * spec.iterations
    return min(1.0, step / rising) if rising else 1.0


def measured_after(spec: DiscreteSpec, step: int) -> bool:
    """Whether the validation bound is measured after this update."""
    return (step + 1) * spec.validations // spec.iterations > step * spec.validations // spec.iterations


def optimiser(spec: DiscreteSpec, parameters: dict[str, torch.Tensor]) -> torch.optim.Adam:
    """Adam, the penalty's gradient added to that of weights and scales."""
    decayed = [value for name, value in parameters.items() if name.endswith(("weight", "weights", "scale"))]
    others = [value for name, value in parameters.items() if not name.endswith(("weight", "weights", "scale"))]
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": others}]
    return torch.optim.Adam(groups, betas=(spec.adam_beta1, spec.adam_beta2), eps=spec.adam_epsilon, fused=True)


def networks(spec: DiscreteSpec, dimension: int, outputs: int) -> NormalisedNetworks:
    """`encoder<g>` of every group, with `outputs` outputs for each unit, and `decoder`."""
    encoders = {
        f"encoder{g}": [dimension + g * spec.latent, *spec.hidden, outputs * spec.latent] for g in range(spec.groups)
    }
    decoder = [spec.groups * spec.latent, *reversed(spec.hidden), dimension]
    return NormalisedNetworks({**encoders, "decoder": decoder}, spec.normalise)


def operations(spec: DiscreteSpec, dimension: int) -> float:
    """Multiplications of one pass of one example through encoders and decoder."""
    weights = networks(spec, dimension, 1).parameters
    return float(sum(value.numel() for name, value in weights.items() if name.endswith("weight")))


def passes(spec: DiscreteSpec) -> float:
    """Work of all updates in passes of the training data, taken as 50,000 examples of 784 dimensions (MNIST's)."""
    units = spec.groups * spec.latent
    chains = spec.chains * spec.sweeps * units**2 / 2 / operations(spec, 784)
    return (spec.stop_after or spec.iterations) * (3.0 * spec.batch_size * spec.samples_k + chains) / 50_000
