"""How variational autoencoders are trained: minibatches, Adam, schedules, the best validation bound kept.

    theta <- theta + Adam(gradient of the mean objective over a minibatch),   step size by the schedule

Reference: optimiser and schedule of Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
section 5. Their code sums the gradient over a batch of 20 where this one takes the mean, so that their epsilon of 1e-4
in Adam acts as 5e-6 does here.
"""

import itertools
import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models.base import ModelSpec

# Decides nothing but which noise the validation bound is measured with: the same at every epoch, so that
# epochs are compared under common random numbers.
VALIDATION_SEED = 20160502
_BURDA_STAGES = 8


class TrainingSpec(ModelSpec):
    epochs: int = Field(300, ge=1, description="Passes over the training data.")
    batch_size: int = Field(100, ge=1, description="Examples in a minibatch; the last, smaller one is left out.")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's step size, at first.")
    schedule: Literal["constant", "burda"] = Field(
        "burda",
        description="burda: eight stages, stage i taking 3^i / 3280 of all steps at learning_rate * 10^(-i/7), "
        "which is the published schedule where epochs = 3280.",
    )
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Adam's decay of the first moment.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Adam's decay of the second moment.")
    adam_epsilon: float = Field(
        5e-6, gt=0, description="Adam's epsilon; 5e-6 on mean gradients is the published 1e-4 on sums over 20 examples."
    )
    validate_every: int = Field(5, ge=1, description="Epochs between two measurements of the validation bound.")
    validation_examples: int = Field(2000, ge=1, description="The bound is measured on the first so many examples.")
    validation_k: int = Field(10, ge=1, description="Importance samples of the validation bound.")


def learning_rate(spec: TrainingSpec, step: int, total: int) -> float:
    """Adam's step size at one of `total` steps."""
    if spec.schedule == "constant":
        return spec.learning_rate
    done = (step + 0.5) / total
    shares = itertools.accumulate(3**i / 3280 for i in range(_BURDA_STAGES))
    stage = next((i for i, end in enumerate(shares) if done < end), _BURDA_STAGES - 1)
    return spec.learning_rate * 10 ** (-stage / 7)


def optimiser(spec: TrainingSpec, parameters: list[Tensor]) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, betas=(spec.adam_beta1, spec.adam_beta2), eps=spec.adam_epsilon, fused=True)


def validation_examples(spec: TrainingSpec, data: Dataset, device: torch.device) -> Tensor:
    """The first examples of the validation split, drawn once where they are stochastic."""
    generator = torch.Generator(device).manual_seed(VALIDATION_SEED)
    return data.validation.take(slice(0, spec.validation_examples), generator).to(device)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log of the mean over the first axis: (k, n) -> (n,)."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
