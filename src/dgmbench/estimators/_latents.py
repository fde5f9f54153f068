"""Means over latent variables of p(x given u), gathered chunk by chunk.

    log sum_j exp(log_weight_j) p(x given u_j)    for every x, with sums of the squares beside them

Tables of (chunk, n) bound the memory.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from dgmbench.models.base import Decoder


def table_rows(examples: int, dimension: int) -> int:
    """How many u are decoded at once, so that tables and decoded outputs hold about 4 million numbers."""
    return max(1, (1 << 22) // max(examples, 2 * dimension, 1))


def log_sum(model: Decoder, x: Tensor, pieces: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """log of the sum over all u of exp(log_weight) p(x given u): (n, d) and pieces of (k, m), (k,) -> (n,), float64."""
    total = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
    for u, log_weights in pieces:
        table = model.log_prob_table(x, u).double() + log_weights[:, None]
        total = torch.logaddexp(total, torch.logsumexp(table, 0))
    return total
