"""What all annealing has in common: spacings of the inverse temperatures, chains along them, and resampling.

    log w = sum_t log p*_{beta_{t+1}}(x_t) - log p*_{beta_t}(x_t),   x_0 from p_{beta_0},   x_t from T_{beta_t}(x_{t-1})
    E[w] = Z_{beta_T} / Z_{beta_0}    for any betas, rising or falling, chosen before the chains are drawn

T_beta need only leave p_beta invariant: with falling betas the same transitions give the weights of Z_0 / Z.

`adaptive` spaces the temperatures by a pilot run with draws of its own, so that w stays unbiased: the pilot, a
resampled population, moves from beta to the beta' where its relative effective sample size (sum u)^2 / (n sum u^2),
u = p*_{beta'} / p*_beta, falls to `increment_ess`; each of these steps is then cut into equally many parts.

References: Neal, "Annealed importance sampling", 2001, section 2 and equation 11; Salakhutdinov and Murray, "On the
quantitative analysis of deep belief networks", ICML 2008 (its three-part schedule is `salakhutdinov-murray`); the
sigmoid schedule is that of Grosse, Ghahramani and Adams, "Sandwiching the marginal likelihood using bidirectional Monte
Carlo", 2015, with delta = 4; the effective sample size of an increment: Zhou, Johansen and Aston, "Toward automatic
model comparison: an adaptive sequential Monte Carlo approach", 2016, section 3.
"""

import math
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import EstimatorSettings, Workbench
from dgmbench.models.base import AnnealedPath

_SIGMOID_DELTA = 4.0
_SALAKHUTDINOV_MURRAY = 14_501
_HALVINGS = 24  # of the rest of the way, in the search for the pilot's next temperature: steps down to 6e-8
_MOST_PILOT_STEPS = 10_000


class AnnealingSettings(EstimatorSettings):
    schedule: Literal["linear", "sigmoid", "salakhutdinov-murray", "adaptive"] = Field(
        "linear",
        description="Spacing of the inverse temperatures. salakhutdinov-murray: steps of 1/1000 up to 0.5, "
        "1/10,000 up to 0.9 and 1/100,000 up to 1: 14,501 temperatures. adaptive: by a pilot run, dense where the "
        "distribution changes fast.",
    )
    temperatures: int = Field(
        10_000, ge=2, description="Inverse temperatures, both ends counted; salakhutdinov-murray has its own number."
    )
    transitions: int = Field(1, ge=1, description="Transitions at each temperature.")
    increment_ess: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="Of adaptive alone: relative effective sample size of the weights of each step of the pilot run.",
    )
    pilot_chains: int = Field(200, ge=10, description="Of adaptive alone: replicas of the pilot run.")

    @model_validator(mode="before")
    @classmethod
    def _number_of_the_schedule(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("schedule") != "salakhutdinov-murray":
            return values
        if values.get("temperatures", _SALAKHUTDINOV_MURRAY) != _SALAKHUTDINOV_MURRAY:
            raise ValueError(f"salakhutdinov-murray has {_SALAKHUTDINOV_MURRAY} temperatures: leave 'temperatures' out")
        return {**values, "temperatures": _SALAKHUTDINOV_MURRAY}


def betas(path: AnnealedPath, settings: AnnealingSettings, generator: torch.Generator) -> np.ndarray:
    """Inverse temperatures from 0 to 1, both included: (temperatures,), float64, increasing.

    Raises:
        CannotBeDone: an adaptive schedule whose pilot run does not come to an end.
    """
    if settings.schedule == "salakhutdinov-murray":
        # Ratios of integers: no rounding accumulates over 14,501 temperatures.
        thousandths = np.arange(0, 500) / 1_000
        ten_thousandths = np.arange(5_000, 9_000) / 10_000
        hundred_thousandths = np.arange(90_000, 100_001) / 100_000
        return np.concatenate([thousandths, ten_thousandths, hundred_thousandths])
    if settings.schedule == "adaptive":
        return spread(pilot_betas(path, settings, generator), settings.temperatures)
    linear = np.linspace(0.0, 1.0, settings.temperatures)
    if settings.schedule == "linear":
        return linear
    # sigmoid(x) = (1 + tanh(x / 2)) / 2, moved and scaled so that it runs from 0 to 1.
    curve = np.tanh(_SIGMOID_DELTA * (linear - 0.5)) / math.tanh(_SIGMOID_DELTA / 2)
    rescaled = (1 + curve) / 2
    rescaled[0], rescaled[-1] = 0.0, 1.0
    return rescaled


def pilot_betas(path: AnnealedPath, settings: AnnealingSettings, generator: torch.Generator) -> np.ndarray:
    """Inverse temperatures from 0 to 1 between which the relative effective sample size is `increment_ess`: (K,)."""
    state = path.sample_base(settings.pilot_chains, generator)
    found = [0.0]
    while found[-1] < 1.0:
        if len(found) > _MOST_PILOT_STEPS:
            raise CannotBeDone(
                f"the pilot run is at inverse temperature {found[-1]:.3g} after {_MOST_PILOT_STEPS:,} steps: lower "
                "increment_ess or take another schedule"
            )
        found.append(_next_beta(path, state, found[-1], settings.increment_ess))
        log_weights = path.log_ratio(state, found[-2], found[-1])
        state = state[systematic(log_weights[None], generator)[0]]
        if found[-1] < 1.0:
            for _ in range(settings.transitions):
                state = path.step(state, found[-1], generator)
    return np.array(found)


def spread(found: np.ndarray, temperatures: int) -> np.ndarray:
    """As many temperatures as asked for, equally many in each step of the pilot run: (K,) -> (temperatures,)."""
    return np.interp(np.linspace(0, len(found) - 1, temperatures), np.arange(len(found)), found)


def anneal(
    path: AnnealedPath, inverse_temperatures: np.ndarray, state: Tensor, transitions: int, bench: Workbench
) -> Tensor:
    """Log importance weights of the chains that start at `state`, drawn from the first beta: (n, d) -> (n,), float64.

    The betas may rise or fall.
    """
    log_weights = torch.zeros(len(state), dtype=torch.float64, device=state.device)
    pairs = list(pairwise(inverse_temperatures.tolist()))
    with bench.progress.task("anneal", total=len(pairs), unit="temperature") as task:
        for done, (beta_from, beta_to) in enumerate(pairs, start=1):
            log_weights += path.log_ratio(state, beta_from, beta_to)
            if done < len(pairs):  # after the last ratio nobody looks at the state
                for _ in range(transitions):
                    state = path.step(state, beta_to, bench.generator)
            task.advance()
    return log_weights


def relative_ess(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / (n sum w^2), between 1/n and 1: (..., n) -> (...)."""
    twice = 2 * torch.logsumexp(log_weights, -1) - torch.logsumexp(2 * log_weights, -1)
    return (twice - math.log(log_weights.shape[-1])).exp()


def systematic(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """Systematic resampling: indices of n survivors in each of g populations, (g, n) -> (g, n), int64, rising.

    Member i survives floor or ceil of n w_i / sum w times, with that mean, from one uniform draw for each population
    (Carpenter, Clifford and Fearnhead, "Improved particle filter for nonlinear problems", 1999).
    """
    g, n = log_weights.shape
    share = torch.softmax(log_weights.double(), -1).cumsum(-1)
    first = torch.rand(g, 1, generator=generator, dtype=torch.float64, device=log_weights.device)
    places = (torch.arange(n, dtype=torch.float64, device=log_weights.device) + first) / n
    # The shares sum to 1 only up to rounding: the last place may lie beyond them.
    return torch.searchsorted(share, places, right=True).clamp_(max=n - 1)


def _next_beta(path: AnnealedPath, state: Tensor, beta: float, target: float) -> float:
    """The largest beta' found by bisection whose increments keep the relative effective sample size at the target."""
    if relative_ess(path.log_ratio(state, beta, 1.0)) >= target:
        return 1.0
    low, high = beta, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if relative_ess(path.log_ratio(state, beta, middle)) >= target:
            low = middle
        else:
            high = middle
    return low if low > beta else high
