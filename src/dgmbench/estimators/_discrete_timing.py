"""Clock readings of the training of discrete variational autoencoders.

What is timed is the same update as in training, of new networks: nothing of the trained model is changed.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, section 4.
"""

import numpy as np
import torch

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._timing import Clocked, Timing
from dgmbench.models.base import VariationalBound
from dgmbench.models.variational._discrete import DiscreteAutoencoder

WARM_UP = 2  # steps that are not counted


def discrete(model: VariationalBound) -> DiscreteAutoencoder:
    """The model, if its training can be timed here.

    Raises:
        CannotBeDone: it is no discrete variational autoencoder.
    """
    if not isinstance(model, DiscreteAutoencoder):
        raise CannotBeDone(
            "only discrete variational autoencoders can be timed: write 'model: dvae', 'dvae_pp' or 'dvae_sharp' in "
            "the row, or take the evaluation out of it."
        )
    return model


def time_steps(model: DiscreteAutoencoder, data: Dataset, steps: int, seed: int, device: torch.device) -> Timing:
    """Training steps of a new model of the same spec, after two that warm up.

    They are the first of a training so long that neither schedules nor the validation bound begin in them.
    """
    generator = torch.Generator(device).manual_seed(seed)
    spec = model.spec.model_copy(update={"iterations": 1_000_000_000, "validations": 1})
    session = Clocked(generator, most=steps + WARM_UP)
    type(model)(spec, data.dimension).fit(data, session)
    return Timing(tuple(np.diff(session.clock)[WARM_UP:].tolist()))
