"""How estimators of log Z behave over repetitions, on machines whose log Z is known by enumeration.

    coverage = share of the repetitions whose 95 % interval holds log Z
    bias = mean of (estimate - log Z),    rmse = root of the mean of its square,    stated se = mean standard error

of AIS, reverse AIS, the bracket of both, and population annealing, each with the same temperatures and chains; the
bracket has twice the work. The interval is estimate +- 1.96 se; that of the bracket runs from lower - 1.96 se to
upper + 1.96 se, and its estimate is the midpoint. An adaptive schedule is made once and serves every repetition;
states of the target are exact.

References: Grosse, Ghahramani and Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo", 2015;
the standard error of a share is that of Agresti and Coull, "Approximate is better than 'exact' for interval estimation
of binomial proportions", 1998.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from scipy import stats

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._annealing import AnnealingSettings, anneal, betas
from dgmbench.estimators._log_weights import delta_se, log_mean_exp
from dgmbench.estimators._target_states import enumeration_with_states, exact_states
from dgmbench.estimators.base import Estimate, Estimates, Metric, Workbench
from dgmbench.estimators.enumeration import log_terms
from dgmbench.estimators.population_annealing import anneal_populations
from dgmbench.models.base import Energy

NOMINAL = 0.95
_Z = float(stats.norm.ppf(0.5 + NOMINAL / 2))
METHODS = {
    "ais": "AIS",
    "reverse_ais": "reverse AIS",
    "bracket": "the bracket of AIS and reverse AIS",
    "population_annealing": "population annealing",
}
SMOKE = {"repetitions": 8}


class Settings(AnnealingSettings):
    repetitions: int = Field(200, ge=4, description="Independent repetitions, run as one batch of chains.")
    chains: int = Field(100, ge=4, description="Chains, or replicas, of each repetition and direction.")
    resample_below: float = Field(
        0.5, gt=0, le=1, description="Of population annealing: relative effective sample size that resamples."
    )


REQUIRES = Energy
METRICS = {
    f"{method}_{quantity}": Metric(unit, "score", better, f"{meaning}, of {name}.")
    for method, name in METHODS.items()
    for quantity, unit, better, meaning in (
        ("coverage", "ratio", "neither", "Share of the repetitions whose 95 % interval holds log Z"),
        ("bias", "nats", "neither", "Mean over repetitions of the estimate of log Z less log Z"),
        ("rmse", "nats", "lower", "Root mean square error of log Z over repetitions"),
        ("stated_se", "nats", "neither", "Mean over repetitions of the standard error that is stated"),
    )
}


@dataclass(frozen=True)
class Intervals:
    """Estimates of log Z with their standard errors, lowest and highest of each repetition: (repetitions,) each."""

    low: np.ndarray
    high: np.ndarray
    se_low: np.ndarray
    se_high: np.ndarray
    se: np.ndarray

    @property
    def middle(self) -> np.ndarray:
        return (self.low + self.high) / 2

    def hold(self, truth: float) -> np.ndarray:
        return (self.low - _Z * self.se_low <= truth) & (truth <= self.high + _Z * self.se_high)


def scorings(settings: Settings, examples: int) -> float:
    # Up, down, and once more as a population, which scores a state half as often again.
    return 7.0 * settings.repetitions * settings.chains * settings.transitions * settings.temperatures


def estimate(model: Energy, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Coverage, bias, root mean square error and mean stated standard error of log Z, for each method.

    Raises:
        CannotBeDone: a model that cannot be enumerated, or weights that are not finite.
    """
    enumeration = enumeration_with_states(model)
    terms = log_terms(enumeration, device=bench.device, progress=bench.progress)
    truth = torch.logsumexp(terms, 0).item()
    path, shape = model.annealed_path(data), (settings.repetitions, settings.chains)
    n, transitions = math.prod(shape), settings.transitions
    schedule = betas(path, settings, bench.generator)

    up = anneal(path, schedule, path.sample_base(n, bench.generator), transitions, bench).view(shape).cpu().numpy()
    start = exact_states(enumeration, terms, n, bench.generator)
    down = anneal(path, schedule[::-1], start, transitions, bench).view(shape).cpu().numpy()
    if not (np.isfinite(up).all() and np.isfinite(down).all()):
        raise CannotBeDone("annealed importance weights are not finite: the model's energy overflows")
    grown = anneal_populations(path, schedule, *shape, transitions, settings.resample_below, bench)

    lower, lower_se = path.log_z_base + log_mean_exp(up), delta_se(up)
    upper, upper_se = path.log_z_base - log_mean_exp(down), delta_se(down)
    population = path.log_z_base + grown.log_ratio
    found = {
        "ais": Intervals(lower, lower, lower_se, lower_se, lower_se),
        "reverse_ais": Intervals(upper, upper, upper_se, upper_se, upper_se),
        "bracket": Intervals(lower, upper, lower_se, upper_se, np.hypot(lower_se, upper_se) / 2),
        "population_annealing": Intervals(population, population, grown.se, grown.se, grown.se),
    }
    evidence = {"repetitions": settings.repetitions, "log_z_exact": truth, "temperatures": len(schedule)}
    numbers = [
        Estimate(f"{method}_{quantity}", value, None, se, None, evidence)
        for method, intervals in found.items()
        for quantity, (value, se) in assess(intervals, truth).items()
    ]
    arrays = {f"{method}_error": intervals.middle - truth for method, intervals in found.items()}
    return Estimates(numbers, arrays | {f"{method}_se": intervals.se for method, intervals in found.items()})


def assess(intervals: Intervals, truth: float) -> dict[str, tuple[float, float]]:
    """Quantity -> its value over the repetitions, and its standard error."""
    error, n = intervals.middle - truth, len(intervals.se)
    held = float(intervals.hold(truth).sum())
    share = (held + _Z**2 / 2) / (n + _Z**2)
    square, rmse = error**2, math.sqrt((error**2).mean())
    return {
        "coverage": (held / n, math.sqrt(share * (1 - share) / (n + _Z**2))),
        "bias": (float(error.mean()), float(error.std(ddof=1)) / math.sqrt(n)),
        "rmse": (rmse, float(square.std(ddof=1)) / math.sqrt(n) / (2 * rmse) if rmse > 0 else 0.0),
        "stated_se": (float(intervals.se.mean()), float(intervals.se.std(ddof=1)) / math.sqrt(n)),
    }
