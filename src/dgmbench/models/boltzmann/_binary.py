"""What every machine of binary units needs: independent draws, and the base rates of its data."""

import numpy as np
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset


def draw(probability: Tensor, generator: torch.Generator) -> Tensor:
    """Independent Bernoulli draws of the given probabilities, as 0.0 and 1.0."""
    # A uniform draw and a comparison take a quarter of the time of torch.bernoulli.
    uniform = torch.rand(probability.shape, generator=generator, dtype=probability.dtype, device=probability.device)
    return torch.lt(uniform, probability, out=uniform)


def base_rate_log_odds(data: Dataset, pseudo_count: float = 5.0) -> Tensor:
    """log p_i / (1 - p_i) with p_i = (ones_i + c) / (N + 2 c) over the training examples: (d,), float64."""
    ones = np.asarray(data.train.x).sum(axis=0, dtype=np.float64)
    rate = torch.from_numpy((ones + pseudo_count) / (len(data.train) + 2 * pseudo_count))
    return torch.logit(rate)
