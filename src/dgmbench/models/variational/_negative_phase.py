"""The negative phase of a Boltzmann prior's training: samples of the machine, kept from one update to the next.

    d log Z / d theta = E_p(z)[-d E(z) / d theta], a mean over chains,    p(z) = exp(-E(z)) / Z

`pcd`: every chain makes `sweeps` sweeps of block Gibbs under the parameters of now, from where it was. `population`:
first the chains are drawn anew with the weights that the last update gives them,

    w_c = p*_now(s_c) / p*_then(s_c),    p*(s) the other side summed out,

by systematic resampling, then they make their sweeps: population annealing along the path that training takes, in
place of temperatures. log Z itself, for measurements during training, is that of annealed importance sampling.

References: Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood gradient", ICML
2008; Hukushima and Iba, "Population annealing and its application to a spin glass", 2003. The library that DVAE#
(Vahdat, Andriyash and Macready, NeurIPS 2018, section 4) anneals populations with is closed: that its populations too
are carried over from update to update is how its use reads, not known.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from dgmbench.models.boltzmann._binary import block_gibbs, draw
from dgmbench.models.boltzmann._bipartite import Bipartite, Path


class NegativePhase:
    """`kept` holds what the next update continues from: `chains` (C, S), and of a population `log_weight_from` (C,),
    log p* of the chains when they were last moved. Both are changed in place.

    Args: machine, with W = 0 at first or anything that fair coins are a good start for.
    """

    def __init__(
        self,
        machine: Bipartite,
        method: Literal["pcd", "population"],
        chains: int,
        sweeps: int,
        generator: torch.Generator,
    ):
        self.method, self.sweeps = method, sweeps
        own = torch.sigmoid(machine.own.detach()).expand(chains, -1)
        self.kept = {"chains": draw(own, generator)}
        if method == "population":
            self.kept["log_weight_from"] = machine.log_unnormalised(self.kept["chains"]).detach()

    def samples(self, machine: Bipartite, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The chains moved under `machine`: own side (C, S) and other side (C, O), one sample of p(z) a row."""
        chains = self.kept["chains"]
        with torch.no_grad():
            if self.method == "population":
                log_weights = machine.log_unnormalised(chains) - self.kept["log_weight_from"]
                chains.copy_(chains[survivors(log_weights, generator)])
            hidden_mean = torch.sigmoid_(machine.other_input(chains))
            own, other = block_gibbs(hidden_mean, machine.weights, machine.own, machine.other, self.sweeps, generator)
            chains.copy_(own)
            if self.method == "population":
                self.kept["log_weight_from"].copy_(machine.log_unnormalised(chains))
        return own, other


def survivors(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """Systematic resampling: replica c is drawn floor or ceil of C w_c / sum w times: (C,) -> (C,), rising."""
    count = len(log_weights)
    share = torch.softmax(log_weights.double(), 0).cumsum(0)
    first = torch.rand((), generator=generator, dtype=torch.float64, device=log_weights.device)
    places = (torch.arange(count, dtype=torch.float64, device=log_weights.device) + first) / count
    # The shares sum to 1 only up to rounding: the last place may lie beyond them.
    return torch.searchsorted(share, places, right=True).clamp_(max=count - 1)


def annealed_log_z(machine: Bipartite, temperatures: int, chains: int, generator: torch.Generator) -> float:
    """log Z by annealed importance sampling from fair coins, at evenly spaced temperatures; too low in expectation."""
    with torch.no_grad():
        path = Path(machine, torch.zeros_like(machine.own), torch.zeros_like(machine.other))
        state = path.sample_base(chains, generator)
        log_weights = torch.zeros(chains, dtype=torch.float64, device=state.device)
        for i in range(1, temperatures):
            beta = i / (temperatures - 1)
            log_weights += path.log_ratio(state, (i - 1) / (temperatures - 1), beta)
            if beta < 1:
                state = path.step(state, beta, generator)
        return path.log_z_base + torch.logsumexp(log_weights, 0).item() - math.log(chains)
