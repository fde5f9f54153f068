"""Bidirectional annealed importance sampling: log Z between a lower and an upper bound in expectation.

    lower = log Z_0 + log mean_c w_c,     chains from exact draws of the base to the target:  E[w] = Z / Z_0
    upper = log Z_0 - log mean_c v_c,     chains from states of the target to the base:       E[v] = Z_0 / Z
    log Z estimated by the midpoint (lower + upper) / 2

By Jensen E[lower] <= log Z <= E[upper]; by Markov's inequality either misses its side by b nats with a probability of
at most exp(-b). The upper one needs states that have the target's distribution: exact ones have it, those of Markov
chains only as far as they have mixed, and v from other states bounds nothing. The midpoint is taken rather than a
combination by standard errors because both standard errors are too small when the weights are badly spread, while the
two biases then have opposite signs.

References: Grosse, Ghahramani and Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo", 2015,
section 3; Burda, Grosse and Salakhutdinov, "Accurate and conservative estimates of MRF log-likelihood using reverse
annealing", AISTATS 2015; Neal, "Annealed importance sampling", 2001.
"""

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.estimators._annealing import anneal, betas
from dgmbench.estimators._log_weights import Summary, summarise
from dgmbench.estimators._target_states import TargetSettings, sweep_scorings, target_states
from dgmbench.estimators.base import Estimate, Estimates, Metric, Workbench
from dgmbench.models.base import AnnealedPath, Energy


class Settings(TargetSettings):
    chains: int = Field(1000, ge=4, description="Independent chains in each direction.")
    tolerance: float = Field(
        0.1,
        gt=0,
        description="Largest width of the bracket, and largest standard error, that counts as converged, nats.",
    )


REQUIRES = Energy
METRICS = {
    "log_z_lower": Metric(
        "nats", "lower-bound", "neither", "log Z by AIS: a lower bound in expectation, not in each run."
    ),
    "log_z_upper": Metric(
        "nats",
        "upper-bound",
        "neither",
        "log Z by reverse AIS: an upper bound in expectation, not in each run; from states of Markov chains only as "
        "far as those have reached the target.",
    ),
    "log_z": Metric("nats", "estimate", "neither", "Midpoint of the two bounds on log Z."),
    "log_likelihood": Metric("nats", "estimate", "higher", "Mean log p(x) with the midpoint of the bounds as log Z."),
}
_CROSSING_SE = 4.0


def scorings(settings: Settings, examples: int) -> float:
    # Both directions, at all temperatures and at every second one; a temperature scores a state about twice.
    annealing = 3.0 * settings.temperatures * settings.transitions
    return 2.0 * settings.chains * (annealing + sweep_scorings(settings)) + examples


def estimate(model: Energy, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """The bracket, its midpoint and the mean log-likelihood.

    Converged means: each direction passes the tests of AIS on effective sample size, halves and standard error; the
    bracket is at most `tolerance` wide; the bounds do not cross by more than four standard errors; the midpoint agrees
    with that of a second run over every second temperature within three standard errors or within `tolerance`; and
    chains that gave the states of the target neither drift nor remember where they started. The evidence names what
    fails.

    Raises:
        CannotBeDone: exact states of a model that cannot be enumerated, or weights that are not finite.
    """
    path = model.annealed_path(data)
    schedule = betas(path, settings, bench.generator)
    coarse = np.unique(np.append(schedule[::2], 1.0))
    ends, failing, evidence = target_states(model, path, data, settings, 2 * settings.chains, bench)
    full = _both_ways(path, schedule, ends[: settings.chains], settings, bench)
    half = _both_ways(path, coarse, ends[settings.chains :], settings, bench)
    failing = failing + _failing(full, half, settings.tolerance)
    evidence |= {
        "combination": "midpoint",
        "width": full.width,
        "log_z_with_half_of_the_temperatures": half.midpoint,
        "temperatures": len(schedule),
        **{f"forward_{name}": value for name, value in full.lower.evidence.items() if name != "tolerance"},
        **{f"reverse_{name}": value for name, value in full.upper.evidence.items() if name != "tolerance"},
        "tolerance": settings.tolerance,
        "not_converged_because": "; ".join(failing) or None,
    }
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator)
    log_prob = (model.log_unnormalised(x.to(bench.device)) - full.midpoint).cpu().numpy()
    return Estimates(
        [
            Estimate("log_z_lower", full.lower.log_z, None, full.lower.se, not failing, evidence),
            Estimate("log_z_upper", full.upper.log_z, None, full.upper.se, not failing, evidence),
            Estimate("log_z", full.midpoint, None, full.se, not failing, evidence),
            Estimate("log_likelihood", float(log_prob.mean()), log_prob, full.se, not failing, evidence),
        ],
        arrays={"log_weights": full.forward, "reverse_log_weights": full.reverse, "betas": schedule},
    )


@dataclass(frozen=True)
class _Bracket:
    """Both bounds and the weights (chains,) that they are made of."""

    lower: Summary
    upper: Summary
    forward: np.ndarray
    reverse: np.ndarray

    @property
    def width(self) -> float:
        return self.upper.log_z - self.lower.log_z

    @property
    def midpoint(self) -> float:
        return (self.lower.log_z + self.upper.log_z) / 2

    @property
    def se(self) -> float:
        """Of the midpoint; that of the width is twice as large."""
        return math.hypot(self.lower.se, self.upper.se) / 2


def _both_ways(
    path: AnnealedPath, inverse_temperatures: np.ndarray, ends: Tensor, settings: Settings, bench: Workbench
) -> _Bracket:
    """Anneal as many chains from the base up as there are `ends` from which chains are annealed down."""
    start = path.sample_base(len(ends), bench.generator)
    forward = anneal(path, inverse_temperatures, start, settings.transitions, bench).cpu().numpy()
    reverse = anneal(path, inverse_temperatures[::-1], ends, settings.transitions, bench).cpu().numpy()
    lower = summarise(forward, path.log_z_base, settings.tolerance)
    return _Bracket(lower, summarise(reverse, path.log_z_base, settings.tolerance, sign=-1.0), forward, reverse)


def _failing(full: _Bracket, half: _Bracket, tolerance: float) -> list[str]:
    """The tests that the bracket fails, beside one over every second temperature."""
    moved = abs(full.midpoint - half.midpoint)
    tests = (
        ("bracket wider than tolerance", full.width > tolerance),
        ("bounds cross: the states are not the target's", -full.width > max(_CROSSING_SE * 2 * full.se, tolerance)),
        ("half of the temperatures move log Z", moved > max(3 * math.hypot(full.se, half.se), tolerance)),
    )
    return [
        *(f"forward: {reason}" for reason in full.lower.failing),
        *(f"reverse: {reason}" for reason in full.upper.failing),
        *(reason for reason, fails in tests if fails),
    ]
