"""Layers of binary units, each connected with the next one: inputs, Gibbs sweeps, mean-field means, and their bound.

    E(v, h1, .., hL) = -v.a - sum_l hl.b_l - sum_l h(l-1) W_l hl,    h0 = v

A state is a list over all layers, v the first, each (n, m_l); so are means. The equations are derived in `dbm`.

Reference: Salakhutdinov and Hinton, "Deep Boltzmann machines", AISTATS 2009, sections 2 and 3.
"""

import torch
from torch import Tensor

from dgmbench.models.boltzmann._binary import Draws
from dgmbench.models.boltzmann._bipartite import Bipartite
from dgmbench.models.boltzmann._training import Velocity


class Layered:
    """`parameters`: `weights.l` (m_{l-1}, m_l) for the hidden layers l = 1 ... L (`levels`), `bias.l` (m_l,) for
    l = 0 ... L; `widths`: m_0 ... m_L."""

    parameters: dict[str, Tensor]
    widths: list[int]

    @property
    def levels(self) -> range:
        return range(1, len(self.widths))

    def input(self, level: int, states: list[Tensor], from_data: Tensor | None = None) -> Tensor:
        """b_l + h(l-1) W_l + W_(l+1) h(l+1), what layer l gets from the layers beside it: (n, m_l).

        `from_data`, where it is known, is b_1 + v W_1.
        """
        found = self.parameters[f"bias.{level}"]
        if level == 1 and from_data is not None:
            found = from_data
        elif level > 0:
            found = torch.addmm(found, states[level - 1], self.parameters[f"weights.{level}"])
        if level < self.levels[-1]:
            found = torch.addmm(found, states[level + 1], self.parameters[f"weights.{level + 1}"].T)
        return found

    def gibbs(self, states: list[Tensor], sweeps: int, generator: torch.Generator) -> list[Tensor]:
        """`sweeps` times the odd layers given the even ones, then the even layers given the odd ones."""
        states, draws = list(states), Draws(generator)
        for _ in range(sweeps):
            for parity in (1, 0):
                for level in range(parity, len(self.widths), 2):
                    states[level] = draws.of(torch.sigmoid_(self.input(level, states)))
        return states

    def fixed_point(self, x: Tensor, iterations: int, tolerance: float, damping: float) -> tuple[list[Tensor], int]:
        """v and the means mu_1 ... mu_L at (or near) a fixed point, with the number of passes: (n, d) -> [(n, m_l)].

        Passes go upwards, layer by layer, until no mean moves by more than `tolerance`; a unit keeps a share `damping`
        of its old mean. They start from a pass in which a layer gets twice its input from below, as there is none from
        above yet (Salakhutdinov and Hinton 2009, section 3.2).
        """
        means, passes, moved = [x], 0, 1.0
        from_data = torch.addmm(self.parameters["bias.1"], x, self.parameters["weights.1"])  # the same in every pass
        for level in self.levels:
            bias, weights = self.parameters[f"bias.{level}"], self.parameters[f"weights.{level}"]
            copies = 1 if level == self.levels[-1] else 2
            means.append(torch.sigmoid_(torch.addmm(bias, means[-1], weights, alpha=copies)))
        while passes < iterations and moved > tolerance:
            passes, moved = passes + 1, 0.0
            for level in self.levels:
                mean = torch.sigmoid_(self.input(level, means, from_data))
                if damping:
                    mean = torch.lerp(mean, means[level], damping)
                moved = max(moved, float((mean - means[level]).abs().max()))
                means[level] = mean
        return means, passes

    def bound_of_means(self, means: list[Tensor]) -> Tensor:
        """v.a + sum_l mu_l.b_l + sum_l mu_(l-1) W_l mu_l + H(mu), for any means: [(n, m_l)] -> (n,), float64 nats."""
        p = self.parameters
        terms = [mean.double() @ p[f"bias.{level}"].double() for level, mean in enumerate(means)]
        for level in self.levels:
            mean = means[level]
            terms.append(((means[level - 1] @ p[f"weights.{level}"]) * mean).sum(1, dtype=torch.float64))
            terms.append(-(torch.xlogy(mean, mean) + torch.xlogy(1 - mean, 1 - mean)).sum(1, dtype=torch.float64))
        return torch.stack(terms).sum(0)

    def accumulate(self, velocity: Velocity, keep: float, means: list[Tensor], states: list[Tensor]) -> None:
        """velocity <- keep velocity + statistics of the mean-field means less those of the chains, in place.

        That is the bound's gradient where `states` are draws of the model. Odd layers of the chains enter through their
        means given the even ones.
        """
        model, n, chains = list(states), len(means[0]), len(states[0])
        for level in self.levels[::2]:
            model[level] = torch.sigmoid_(self.input(level, states))
        for i in range(len(self.widths)):
            velocity[f"bias.{i}"].mul_(keep).add_(means[i].mean(0) - model[i].mean(0))
        for i in self.levels:
            moved = velocity[f"weights.{i}"].addmm_(means[i - 1].T, means[i], beta=keep, alpha=1 / n)
            moved.addmm_(model[i - 1].T, model[i], alpha=-1 / chains)

    def centred(self, velocity: Velocity, centres: list[Tensor]) -> Velocity:
        """The direction in the machine's own parameters that `velocity` is in those of units less `centres` [(m_l,)].

        See `dbm`.
        """
        found = {}
        for i in self.levels:
            moved = velocity[f"weights.{i}"] - torch.outer(velocity[f"bias.{i - 1}"], centres[i])
            found[f"weights.{i}"] = moved.addr_(centres[i - 1], velocity[f"bias.{i}"], alpha=-1)
        for i in range(len(self.widths)):
            direction = velocity[f"bias.{i}"]
            if i > 0:
                direction = direction - centres[i - 1] @ found[f"weights.{i}"]
            if i < self.levels[-1]:
                direction = direction - found[f"weights.{i + 1}"] @ centres[i + 1]
            found[f"bias.{i}"] = direction
        return found

    def bipartite(self, own: list[int], other: list[int]) -> Bipartite:
        """The machine as one of two sides, the layers `own` and `other`, each layer's units side by side."""
        p = self.parameters
        blocks = [[self._between(i, j) for j in other] for i in own]
        weights = torch.cat([torch.cat(row, 1) for row in blocks])
        return Bipartite(weights, torch.cat([p[f"bias.{i}"] for i in own]), torch.cat([p[f"bias.{j}"] for j in other]))

    def smaller_parity(self, levels: range) -> tuple[list[int], list[int]]:
        """The odd and the even ones of some layers, those with fewer units first; the odd ones where equal."""
        odd, even = ([i for i in levels if i % 2 == parity] for parity in (1, 0))
        sizes = [sum(self.widths[i] for i in side) for side in (odd, even)]
        return (odd, even) if sizes[0] <= sizes[1] else (even, odd)

    def _between(self, i: int, j: int) -> Tensor:
        """Weights between layers i and j: (m_i, m_j), zero unless they are neighbours."""
        if abs(i - j) != 1:
            return self.parameters["bias.0"].new_zeros(self.widths[i], self.widths[j])
        weights = self.parameters[f"weights.{max(i, j)}"]
        return weights if i < j else weights.T
