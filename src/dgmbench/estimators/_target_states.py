"""States of the target, p at beta = 1, from which reverse annealing starts.

    exact       the smaller side is drawn from its enumerated distribution, the rest given it: independent, exact
    gibbs       the ends of independent chains of the path's own transitions at beta = 1, begun at the base
    tempering   the states at beta = 1 of independent ladders of parallel tempering

The last two tend to the target with the number of sweeps and do not reach it. Whether the mean log p* of the states
still drifts in the second half of the sweeps is tested; chains that are all caught in one part of the space pass.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dgmbench.errors import CannotBeDone
from dgmbench.estimators._annealing import AnnealingSettings, pilot_betas, spread
from dgmbench.estimators._tempering import Tempered, temper
from dgmbench.estimators.base import Workbench
from dgmbench.estimators.enumeration import log_terms, states
from dgmbench.models.base import AnnealedPath, Energy, Enumeration
from dgmbench.models.enumerated import StateEnumeration

_DRIFT_SE = 4.0  # standard errors: a false alarm in 16,000 where nothing drifts
DRIFT = "the chains at beta = 1 still drift"


class TargetSettings(AnnealingSettings):
    target_states: Literal["exact", "gibbs", "tempering"] = Field(
        "exact",
        description="Where reverse chains start: exact draws by enumeration (small machines), the ends of Gibbs "
        "chains, or of parallel tempering.",
    )
    target_sweeps: int = Field(1000, ge=2, description="Sweeps before the states of gibbs or tempering are taken.")
    ladder: int = Field(20, ge=2, description="Temperatures of tempering, spaced by a pilot run.")


def sweep_scorings(settings: TargetSettings) -> float:
    """Transitions for one state of the target."""
    each = {"exact": 0, "gibbs": 1, "tempering": 2 * settings.ladder}
    return float(each[settings.target_states] * settings.target_sweeps)


def target_states(
    model: Energy, path: AnnealedPath, settings: TargetSettings, n: int, bench: Workbench
) -> tuple[Tensor, list[str], dict[str, Any]]:
    """n states at beta = 1, the tests that they fail, and the evidence: (n, d).

    Raises:
        CannotBeDone: exact states of a model whose smaller side cannot be enumerated.
    """
    if settings.target_states == "exact":
        enumeration = enumeration_with_states(model)
        terms = log_terms(enumeration, device=bench.device, progress=bench.progress)
        return exact_states(enumeration, terms, n, bench.generator), [], {"target_states": "exact"}
    if settings.target_states == "gibbs":
        runs = _gibbs(path, settings.target_sweeps, n, bench.generator)
    else:
        ladder = spread(pilot_betas(path, settings, bench.generator), settings.ladder)
        runs = temper(path, ladder, n, settings.target_sweeps, bench.generator)
    with bench.progress.task("states of the target", total=settings.target_sweeps, unit="sweep") as task:
        for sweep, now in enumerate(runs, start=1):
            if sweep == settings.target_sweeps // 2:
                middle = path.log_unnormalised(now.state, 1.0)
            task.advance()
    change = (path.log_unnormalised(now.state, 1.0) - middle).double()
    drift, se = float(change.mean()), float(change.std() / math.sqrt(n))
    evidence = {
        "target_states": settings.target_states,
        "target_sweeps": settings.target_sweeps,
        "drift": drift,
        "drift_se": se,
    }
    if settings.target_states == "tempering":
        evidence["least_swap_rate"] = float(now.swap_rates.min())
        evidence["mean_swap_rate"] = float(now.swap_rates.mean())
    return now.state, [DRIFT] if abs(drift) > _DRIFT_SE * se else [], evidence


def exact_states(enumeration: StateEnumeration, terms: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n independent draws from the target, by the log terms of all states of the enumerated side: (n, d)."""
    share = torch.softmax(terms, 0).cumsum(0)
    uniform = torch.rand(n, generator=generator, dtype=torch.float64, device=terms.device)
    # The shares sum to 1 only up to rounding: a draw may lie beyond them.
    index = torch.searchsorted(share, uniform, right=True).clamp_(max=len(terms) - 1)
    return enumeration.state_given(states(index, enumeration.bits), generator)


def enumeration_with_states(model: Energy) -> StateEnumeration:
    """The model's enumeration, where there is one that leads to states; else `CannotBeDone`, with what to write."""
    advice = "write target_states: gibbs or tempering"
    try:
        enumeration: Enumeration = model.enumeration()
    except CannotBeDone as refusal:
        raise CannotBeDone(f"exact states of the target: {refusal}; {advice}") from None
    if not isinstance(enumeration, StateEnumeration):
        raise CannotBeDone(f"this model's enumeration does not lead to states of its annealed path; {advice}")
    return enumeration


def _gibbs(path: AnnealedPath, sweeps: int, n: int, generator: torch.Generator) -> Iterator[Tempered]:
    """The state after every sweep of n chains at beta = 1 alone."""
    state = path.sample_base(n, generator)
    for _ in range(sweeps):
        state = path.step(state, 1.0, generator)
        yield Tempered(state, np.empty(0))
