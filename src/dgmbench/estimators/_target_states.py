"""States of the target, p at beta = 1, from which reverse annealing starts.

    exact       the smaller side is drawn from its enumerated distribution, the rest given it: independent, exact
    gibbs       the ends of independent chains of the path's own transitions at beta = 1
    tempering   the states at beta = 1 of independent ladders of parallel tempering

The last two tend to the target with the number of sweeps and do not reach it. Every second chain starts at the base,
the others at training examples (latent states: at complements of draws from the base), at every temperature of a
ladder. Two tests, in standard errors of the mean log p* of the states: whether it still drifts in the second half of
the sweeps, and whether it differs between the two starts. Chains that never leave the part of the space in which they
started pass where both starts give every part the same share.

Reference: Gelman and Rubin, "Inference from iterative simulation using multiple sequences", 1992 (starts that differ by
more than the target's states do).
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._annealing import AnnealingSettings, pilot_betas, spread
from dgmbench.estimators._tempering import Tempered, temper
from dgmbench.estimators.base import Workbench
from dgmbench.estimators.enumeration import log_terms, states
from dgmbench.models.base import AnnealedPath, Energy, Enumeration
from dgmbench.models.enumerated import StateEnumeration

_ALARM_SE = 4.0  # standard errors: a false alarm in 16,000 where nothing drifts or differs
DRIFT = "the chains at beta = 1 still drift"
START = "the chains at beta = 1 remember where they started"


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
    model: Energy, path: AnnealedPath, data: Dataset, settings: TargetSettings, n: int, bench: Workbench
) -> tuple[Tensor, list[str], dict[str, Any]]:
    """n states at beta = 1, the tests that they fail, and the evidence: (n, d).

    Raises:
        CannotBeDone: exact states of a model whose smaller side cannot be enumerated.
    """
    if settings.target_states == "exact":
        enumeration = enumeration_with_states(model)
        terms = log_terms(enumeration, device=bench.device, progress=bench.progress)
        return exact_states(enumeration, terms, n, bench.generator), [], {"target_states": "exact"}
    start = _two_starts(path, data, n, bench)
    if settings.target_states == "gibbs":
        runs = _gibbs(path, start, settings.target_sweeps, bench.generator)
    else:
        ladder = spread(pilot_betas(path, settings, bench.generator), settings.ladder)
        runs = temper(path, ladder, start, settings.target_sweeps, bench.generator)
    with bench.progress.task("states of the target", total=settings.target_sweeps, unit="sweep") as task:
        for sweep, now in enumerate(runs, start=1):
            if sweep == settings.target_sweeps // 2:
                middle = path.log_unnormalised(now.state, 1.0)
            task.advance()
    last = path.log_unnormalised(now.state, 1.0).double()
    drift, drift_se = _mean_and_se(last - middle)
    of_base, of_data = _mean_and_se(last[::2]), _mean_and_se(last[1::2])
    gap, gap_se = of_data[0] - of_base[0], math.hypot(of_base[1], of_data[1])
    evidence = {
        "target_states": settings.target_states,
        "target_sweeps": settings.target_sweeps,
        "drift": drift,
        "drift_se": drift_se,
        "gap_between_starts": gap,
        "gap_between_starts_se": gap_se,
    }
    if settings.target_states == "tempering":
        evidence["least_swap_rate"] = float(now.swap_rates.min())
        evidence["mean_swap_rate"] = float(now.swap_rates.mean())
    tests = ((DRIFT, drift, drift_se), (START, gap, gap_se))
    return now.state, [reason for reason, value, se in tests if abs(value) > _ALARM_SE * se], evidence


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


def _two_starts(path: AnnealedPath, data: Dataset, n: int, bench: Workbench) -> Tensor:
    """Draws of the base in the even rows, in the odd ones what is far from them: (n, d).

    Training examples where states are examples; of a machine over latent binary units the complements of base draws.
    """
    start = path.sample_base(n, bench.generator)
    if start.shape[1] != data.dimension:
        start[1::2] = 1 - start[1::2]
        return start
    rows = torch.randint(len(data.train), (n // 2,), generator=bench.generator, device=bench.device)
    start[1::2] = data.train.take(rows, bench.generator).to(start)
    return start


def _mean_and_se(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def _gibbs(path: AnnealedPath, state: Tensor, sweeps: int, generator: torch.Generator) -> Iterator[Tempered]:
    """The state after every sweep of chains at beta = 1 alone: (n, d)."""
    for _ in range(sweeps):
        state = path.step(state, 1.0, generator)
        yield Tempered(state, np.empty(0))
