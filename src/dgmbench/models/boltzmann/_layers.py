"""One layer of a stack of machines, as it is when it is trained by itself (see `_training`).

    E(v, h) = -v.a - h.b - v W h,    v_i in {0 .. c_v}, h_j in {0 .. c_h}, each a sum of c tied-weight copies of a unit

so that v_i given h is Binomial(c_v, sigmoid(a_i + W_i.h)) and h_j given v is Binomial(c_h, sigmoid(b_j + v.W_j)).
One copy on both sides is the restricted Boltzmann machine. In a deep Boltzmann machine the units of one side will get
as much input again from another layer: until that is there, the opposite side is given twice.

Directions are those of the mean log-likelihood, with each side's statistics divided by its copies, so that one learning
rate means the same for all layers.

Reference: Salakhutdinov and Hinton, "Deep Boltzmann machines", AISTATS 2009, section 3.1 (the doubled inputs).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgmbench.models.boltzmann._binary import Draws
from dgmbench.models.boltzmann._training import Velocity

NAMES = ("weights", "below", "above")


@dataclass(frozen=True)
class Layer:
    """`weights` (m, M), biases `below` (m,) and `above` (M,); the copies of each side."""

    weights: Tensor
    below: Tensor
    above: Tensor
    copies_below: int = 1
    copies_above: int = 1

    def parameters(self) -> dict[str, Tensor]:
        """What training changes."""
        return {name: getattr(self, name) for name in NAMES}

    def hidden_input(self, visible: Tensor) -> Tensor:
        """b + v W of one copy: (n, m) counts -> (n, M)."""
        return torch.addmm(self.above, visible, self.weights)

    def visible_input(self, hidden: Tensor) -> Tensor:
        """a + W h of one copy: (n, M) counts -> (n, m)."""
        return torch.addmm(self.below, hidden, self.weights.T)

    def tied(self, below: Tensor) -> Tensor:
        """Binary values given to every copy: (n, m) -> (n, m) counts."""
        return self.copies_below * below if self.copies_below > 1 else below

    def log_unnormalised(self, x: Tensor) -> Tensor:
        """v.a + c_h sum_j softplus(b_j + v.W_j) in nats, without the number of ways to reach v: (n, m) -> (n,)."""
        summed_out = F.softplus(self.hidden_input(x)).sum(1, dtype=torch.float64)
        return x.double() @ self.below.double() + self.copies_above * summed_out

    def gibbs(self, hidden_mean: Tensor, sweeps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`sweeps` times h from its means and then v given h: (n, M) means of one copy -> counts v (n, m), h (n, M)."""
        draws = Draws(generator)
        for sweep in range(1, sweeps + 1):
            hidden = counts(hidden_mean, self.copies_above, draws)
            visible = counts(self.visible_input(hidden).sigmoid_(), self.copies_below, draws)
            if sweep < sweeps:
                hidden_mean = self.hidden_input(visible).sigmoid_()
        return visible, hidden

    def accumulate(self, velocity: Velocity, keep: float, visible: Tensor, slope: Tensor, sign: Tensor) -> None:
        """velocity <- keep velocity + d/dtheta [sum_r sign_r v_r.a + sum_rj slope_rj x_rj], in place, the weights'
        and v's share over the copies of v; x_rj is the input of one copy of h_j."""
        share = 1 / self.copies_below
        velocity["weights"].addmm_(visible.T, slope, beta=keep, alpha=share)
        velocity["below"].mul_(keep).addmv_(visible.T, sign, alpha=share)
        velocity["above"].mul_(keep).add_(slope.sum(0))


def counts(mean: Tensor, copies: int, draws: Draws) -> Tensor:
    """Binomial(copies, mean) draws: sums of independent Bernoulli draws."""
    drawn = draws.of(mean)
    for _ in range(copies - 1):
        drawn = drawn + draws.of(mean)
    return drawn
