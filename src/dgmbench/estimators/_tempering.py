"""Parallel tempering: chains at every temperature of an annealed path, which exchange their states.

    sweep:     x_k from T_{beta_k}(x_k) for every temperature k; at beta_0 = 0 a new draw from the base
    exchange:  x_k and x_{k+1} with probability min(1, r),
               r = p*_{beta_{k+1}}(x_k) p*_{beta_k}(x_{k+1}) / (p*_{beta_k}(x_k) p*_{beta_{k+1}}(x_{k+1}))

The product of all p_{beta_k} stays invariant, so that the states at beta = 1 tend to the target. Pairs with even and
with odd k take turns.

References: Geyer, "Markov chain Monte Carlo maximum likelihood", 1991; Hukushima and Nemoto, "Exchange Monte Carlo
method and application to spin glass simulations", 1996; for restricted Boltzmann machines: Desjardins, Courville,
Bengio, Vincent and Delalleau, "Tempered Markov chain Monte Carlo for training of restricted Boltzmann machines", 2010.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dgmbench.models.base import AnnealedPath


@dataclass(frozen=True)
class Tempered:
    """(n, d) states at the last temperature, and the share of accepted exchanges of each pair: (K - 1,)."""

    state: Tensor
    swap_rates: np.ndarray


def temper(
    path: AnnealedPath, inverse_temperatures: np.ndarray, start: Tensor, sweeps: int, generator: torch.Generator
) -> Iterator[Tempered]:
    """The state after every sweep of n independent ladders, all of whose chains start at the ladder's row of `start`
    (n, d); temperatures rise from 0."""
    ladder, n = inverse_temperatures.tolist(), len(start)
    states = [start for _ in ladder]
    accepted, tried = np.zeros(len(ladder) - 1), np.zeros(len(ladder) - 1)
    for sweep in range(sweeps):
        states = [
            path.step(state, beta, generator) if beta > 0 else path.sample_base(n, generator)
            for state, beta in zip(states, ladder)
        ]
        for k in range(sweep % 2, len(ladder) - 1, 2):
            swap = _accept(path, states[k], states[k + 1], ladder[k], ladder[k + 1], generator)
            states[k], states[k + 1] = (
                torch.where(swap[:, None], states[k + 1], states[k]),
                torch.where(swap[:, None], states[k], states[k + 1]),
            )
            accepted[k] += float(swap.double().mean())
            tried[k] += 1
        yield Tempered(states[-1], accepted / np.maximum(tried, 1))


def _accept(
    path: AnnealedPath, hot: Tensor, cold: Tensor, beta: float, following: float, generator: torch.Generator
) -> Tensor:
    """Which pairs exchange, by Metropolis: (n,), bool."""
    log_r = path.log_ratio(hot, beta, following) - path.log_ratio(cold, beta, following)
    uniform = torch.rand(len(log_r), generator=generator, dtype=torch.float64, device=log_r.device)
    return uniform.log() < log_r
