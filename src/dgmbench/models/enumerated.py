"""Exact states of small machines: one side is drawn from its enumerated distribution, the rest given that side.

    p(s) = exp(log_term(s)) / Z,    x ~ p(x given s),    so that x ~ p(x) = sum_s p(s) p(x given s)

It stands apart from `models.base`, which every trained run depends on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgmbench.models.base import Enumeration


@dataclass(frozen=True)
class StateEnumeration(Enumeration):
    """An enumeration that also leads from an enumerated side to a state of the model's annealed path.

    `state_given(s, generator)` draws x from p(x given s) at beta = 1: (n, bits) in float64 -> (n, d), in the precision
    of the path's states. Where s itself is the state, it returns s.
    """

    state_given: Callable[[Tensor, torch.Generator], Tensor]
