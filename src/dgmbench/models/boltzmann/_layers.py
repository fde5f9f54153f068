"""One layer of a stack of machines, trained by itself: contrastive divergence with fresh or persistent chains.

    E(v, h) = -v.a - h.b - v W h,    v_i in {0 .. c_v}, h_j in {0 .. c_h}, each a sum of c tied-weight copies of a unit

so that v_i given h is Binomial(c_v, sigmoid(a_i + W_i.h)) and h_j given v is Binomial(c_h, sigmoid(b_j + v.W_j)).
One copy on both sides is the restricted Boltzmann machine. In a deep Boltzmann machine the units of one side will get
as much input again from another layer: until that is there, the opposite side is given twice.

Directions are those of the mean log-likelihood, with each side's statistics divided by its copies, so that one learning
rate means the same for all layers.

References: Hinton, "Training products of experts by minimizing contrastive divergence", Neural Computation 14, 2002;
Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood gradient", ICML 2008;
Salakhutdinov and Hinton, "Deep Boltzmann machines", AISTATS 2009, section 3.1 (the doubled inputs).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dgmbench.models.boltzmann._binary import draw

NAMES = ("weights", "below", "above")


class Rule(Protocol):
    """How a layer is updated."""

    gibbs_steps: int
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class Layer:
    """`weights` (m, M), biases `below` (m,) and `above` (M,); the copies of each side."""

    weights: Tensor
    below: Tensor
    above: Tensor
    copies_below: int = 1
    copies_above: int = 1

    def above_mean(self, below: Tensor) -> Tensor:
        """sigmoid(b + v W): (n, m) counts -> (n, M), of one copy."""
        return torch.sigmoid_(torch.addmm(self.above, below, self.weights))

    def below_mean(self, above: Tensor) -> Tensor:
        """sigmoid(a + W h): (n, M) counts -> (n, m), of one copy."""
        return torch.sigmoid_(torch.addmm(self.below, above, self.weights.T))

    def sample_above(self, below: Tensor, generator: torch.Generator) -> Tensor:
        """Counts (n, m) -> counts (n, M)."""
        return counts(self.above_mean(below), self.copies_above, generator)

    def sample_below(self, above: Tensor, generator: torch.Generator) -> Tensor:
        """Counts (n, M) -> counts (n, m)."""
        return counts(self.below_mean(above), self.copies_below, generator)

    def tied(self, below: Tensor) -> Tensor:
        """Binary values given to every copy: (n, m) -> (n, m) counts."""
        return self.copies_below * below if self.copies_below > 1 else below

    def free_energy(self, below: Tensor) -> Tensor:
        """-v.a - c_h sum_j softplus(b_j + v.W_j) in nats, without the number of ways to reach v: (n, m) -> (n,)."""
        return -below @ self.below - self.copies_above * F.softplus(torch.addmm(self.above, below, self.weights)).sum(1)

    def sweep(self, below: Tensor, generator: torch.Generator) -> Tensor:
        """h given v, then v given h: counts (n, m) -> counts (n, m)."""
        return self.sample_below(self.sample_above(below, generator), generator)

    def direction(self, data: Tensor, model: Tensor) -> dict[str, Tensor]:
        """Statistics of `data` less those of `model`, both (., m) counts: gradient of the mean log-likelihood where
        `model` are draws of this machine, up to the copies."""
        positive, negative = self.above_mean(data), self.above_mean(model)
        n, m, share = len(data), len(model), self.copies_below
        return {
            "weights": (data.T @ positive / n - model.T @ negative / m) / share,
            "below": (data.mean(0) - model.mean(0)) / share,
            "above": positive.mean(0) - negative.mean(0),
        }


def counts(mean: Tensor, copies: int, generator: torch.Generator) -> Tensor:
    """Binomial(copies, mean) draws: sums of independent Bernoulli draws."""
    drawn = draw(mean, generator)
    for _ in range(copies - 1):
        drawn = drawn + draw(mean, generator)
    return drawn


def update(
    layer: Layer,
    velocity: dict[str, Tensor],
    data: Tensor,
    chains: Tensor | None,
    rule: Rule,
    rate: float,
    generator: torch.Generator,
) -> Tensor:
    """One update in place; returns mean F(data) - mean F(negative states), nats.

    `data` are (n, m) binary values. Persistent `chains`, (c, m) counts, move on from where they are, in place; without
    them the chains start at the data.
    """
    data = layer.tied(data)
    model = data if chains is None else chains
    for _ in range(rule.gibbs_steps):
        model = layer.sweep(model, generator)
    if chains is not None:
        chains.copy_(model)
    gap = layer.free_energy(data).mean() - layer.free_energy(model).mean()
    for name, direction in layer.direction(data, model).items():
        parameter = getattr(layer, name)
        if name == "weights" and rule.weight_decay:
            direction = direction - rule.weight_decay * parameter
        parameter.add_(velocity[name].mul_(rule.momentum).add_(direction), alpha=rate)
    return gap
