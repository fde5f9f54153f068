"""A machine of two sides of binary units that see only each other: its sums, its Gibbs sweeps, its annealed path.

    E(s, o) = -s.a - o.b - s W o,    log p*(s) = s.a + sum_j softplus(b_j + s.W_j)      (the other side summed out)

A restricted Boltzmann machine is one: so are the two highest layers of a deep belief network, and the odd and even
layers of a deep Boltzmann machine.

Reference: the annealed path is that of Salakhutdinov and Murray, "On the quantitative analysis of deep belief
networks", ICML 2008, equations 15 to 17, with base rates on either side.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgmbench.errors import CannotBeDone
from dgmbench.models.base import AnnealedPath
from dgmbench.models.boltzmann._binary import Draws, draw
from dgmbench.models.enumerated import StateEnumeration

MAX_ENUMERATED_BITS = 20


@dataclass(frozen=True)
class Bipartite:
    """`weights` (S, O), `own` biases (S,) of the side that states are kept of, `other` biases (O,)."""

    weights: Tensor
    own: Tensor
    other: Tensor

    def other_input(self, state: Tensor) -> Tensor:
        """b + s W: (n, S) -> (n, O)."""
        return torch.addmm(self.other, state, self.weights)

    def own_input(self, others: Tensor) -> Tensor:
        """a + W o: (n, O) -> (n, S)."""
        return torch.addmm(self.own, others, self.weights.T)

    def sweep_mean(self, state: Tensor, generator: torch.Generator) -> Tensor:
        """o given s, then the means of s given o: (n, S) -> (n, S)."""
        return torch.sigmoid_(self.own_input(draw(torch.sigmoid_(self.other_input(state)), generator)))

    def sweep(self, state: Tensor, generator: torch.Generator) -> Tensor:
        """o given s, then s given o: (n, S) -> (n, S)."""
        return draw(self.sweep_mean(state, generator), generator)

    def log_unnormalised(self, state: Tensor) -> Tensor:
        """s.a + sum_j softplus(b_j + s.W_j) in nats, summed in float64: (n, S) -> (n,)."""
        summed_out = F.softplus(self.other_input(state)).sum(1, dtype=torch.float64)
        return state.double() @ self.own.double() + summed_out

    def enumeration(self) -> StateEnumeration:
        """Z as a sum over the smaller side; raises `CannotBeDone` where that has more than 20 units."""
        bits = min(self.weights.shape)
        if bits > MAX_ENUMERATED_BITS:
            raise CannotBeDone(f"the smaller side has {bits} units; at most {MAX_ENUMERATED_BITS} can be enumerated")
        weights, own, other = self.weights.double(), self.own.double(), self.other.double()
        over_others = weights.shape[1] < weights.shape[0]
        if over_others:
            weights, own, other = weights.T, other, own

        def state_given(side: Tensor, generator: torch.Generator) -> Tensor:
            side = side.to(self.weights)
            return draw(torch.sigmoid_(self.own_input(side)), generator) if over_others else side

        def log_term(side: Tensor) -> Tensor:
            return side @ own + F.softplus(torch.addmm(other, side, weights)).sum(1)

        return StateEnumeration(bits, log_term, state_given)


class Path(AnnealedPath):
    """p*_beta(s) = exp(s.a_beta) prod_j (1 + exp(b_beta_j + beta s.W_j)),   a_beta = (1 - beta) a_0 + beta a, b alike.

    At beta = 0 all units are independent with log-odds a_0 and b_0:
    log Z_0 = sum_i softplus(a_0i) + sum_j softplus(b_0j).

    A state must not be changed in place: the product s W of the last one is kept, since the importance ratio
    and the transition that follows it both need it.
    """

    def __init__(self, machine: Bipartite, base_own: Tensor, base_other: Tensor):
        self.machine, self.base_own, self.base_other = machine, base_own, base_other
        self.own_tilt, self.other_tilt = machine.own - base_own, machine.other - base_other
        self.log_z_base = (F.softplus(base_own.double()).sum() + F.softplus(base_other.double()).sum()).item()
        self._state: Tensor | None = None
        self._slope: Tensor | None = None
        self._beta = math.nan
        self._mean: Tensor | None = None

    def sample_base(self, n: int, generator: torch.Generator) -> Tensor:
        return draw(torch.sigmoid(self.base_own).expand(n, -1), generator)

    def log_unnormalised(self, state: Tensor, beta: float) -> Tensor:
        own = state.double() @ (self.base_own.double() + beta * self.own_tilt.double())
        return own + F.softplus(self._input(state, beta)).sum(1, dtype=torch.float64)

    def log_ratio(self, state: Tensor, beta_from: float, beta_to: float) -> Tensor:
        """The difference is formed unit by unit, so that it stays accurate when the temperatures are close: with
        x' = x + change u, softplus(x') - softplus(x) = -log(1 + sigmoid(x') (exp(-change u) - 1))."""
        change = beta_to - beta_from
        if abs(change) <= 0.01:  # exp(change u) stays in range for any |u| < 8000
            growth = torch.expm1(-change * self._slopes(state)).mul_(self._means(state, beta_to))
            other = -growth.log1p_().sum(1).double()
        else:
            other = F.softplus(self._input(state, beta_to)).sum(1, dtype=torch.float64)
            other -= F.softplus(self._input(state, beta_from)).sum(1, dtype=torch.float64)
        return other + change * torch.mv(state, self.own_tilt).double()

    def step(self, state: Tensor, beta: float, generator: torch.Generator) -> Tensor:
        """Block Gibbs: the other side given this one, then this one given the other, both at `beta`."""
        draws = Draws(generator)
        others = draws.of(self._means(state, beta))
        bias = self.base_own + beta * self.own_tilt
        return draws.of(torch.addmm(bias, others, self.machine.weights.T, alpha=beta).sigmoid_())

    def _slopes(self, state: Tensor) -> Tensor:
        """u = b - b_0 + s W, the slope of the other side's inputs in beta."""
        if state is not self._state:
            self._state = state
            self._slope = torch.addmm(self.other_tilt, state, self.machine.weights)
            self._beta = math.nan
        return self._slope

    def _input(self, state: Tensor, beta: float) -> Tensor:
        return torch.add(self.base_other, self._slopes(state), alpha=beta)

    def _means(self, state: Tensor, beta: float) -> Tensor:
        if state is not self._state or beta != self._beta:
            self._mean = torch.sigmoid_(self._input(state, beta))
            self._beta = beta
        return self._mean
