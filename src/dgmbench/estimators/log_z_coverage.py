"""How an estimator of log Z behaves over repetitions, on machines whose log Z is known by enumeration.

    coverage = share of the repetitions whose 95 % interval holds log Z
    bias = mean of (estimate - log Z),    rmse = root of the mean of its square,    stated se = mean standard error

The interval is estimate +- 1.96 se; that of `bracket` runs from lower - 1.96 se to upper + 1.96 se, and its estimate is
the midpoint. An adaptive schedule is made once and serves every repetition; states of the target are exact.

References: Grosse, Ghahramani and Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo", 2015;
the standard error of a share is that of Agresti and Coull, "Approximate is better than 'exact' for interval estimation
of binomial proportions", 1998.
"""

import math
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy import stats

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._annealing import AnnealingSettings, anneal, betas
from dgmbench.estimators._log_weights import delta_se, log_mean_exp
from dgmbench.estimators._target_states import enumeration_with_states, exact_states
from dgmbench.estimators.base import Estimate, Estimates, Metric, Workbench
from dgmbench.estimators.enumeration import log_partition
from dgmbench.estimators.population_annealing import anneal_populations
from dgmbench.models.base import AnnealedPath, Energy

NOMINAL = 0.95
_Z = float(stats.norm.ppf(0.5 + NOMINAL / 2))
SMOKE = {"repetitions": 8}


class Settings(AnnealingSettings):
    method: Literal["ais", "reverse-ais", "bracket", "population-annealing"] = Field(
        "ais", description="The estimator of log Z that is repeated."
    )
    repetitions: int = Field(200, ge=4, description="Independent repetitions, run as one batch of chains.")
    chains: int = Field(100, ge=4, description="Chains, or replicas, of each repetition and direction.")
    resample_below: float = Field(
        0.5, gt=0, le=1, description="Of population-annealing alone: relative effective sample size that resamples."
    )


REQUIRES = Energy
METRICS = {
    "coverage": Metric("ratio", "score", "neither", "Share of the repetitions whose 95 % interval holds log Z."),
    "bias": Metric("nats", "score", "neither", "Mean over repetitions of the estimate of log Z less log Z."),
    "rmse": Metric("nats", "score", "lower", "Root mean square error of log Z over repetitions."),
    "stated_se": Metric("nats", "score", "neither", "Mean over repetitions of the standard error that is stated."),
}


def scorings(settings: Settings, examples: int) -> float:
    directions = 2.0 if settings.method == "bracket" else 1.0
    return 2.0 * directions * settings.repetitions * settings.chains * settings.transitions * settings.temperatures


def estimate(model: Energy, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Coverage, bias, root mean square error and mean stated standard error of log Z.

    Raises:
        CannotBeDone: a model that cannot be enumerated, or weights that are not finite.
    """
    truth = log_partition(model.enumeration(), device=bench.device, progress=bench.progress)
    path = model.annealed_path(data)
    schedule = betas(path, settings, bench.generator)
    if settings.method == "population-annealing":
        low, high, se_low, se_high = _populations(path, schedule, settings, bench)
    else:
        low, high, se_low, se_high = _annealed(model, path, schedule, settings, bench)
    if not np.isfinite([low, high]).all():
        raise CannotBeDone("annealed importance weights are not finite: the model's energy overflows")
    error = (low + high) / 2 - truth
    stated = se_low if low is high else np.hypot(se_low, se_high) / 2
    holds = (low - _Z * se_low <= truth) & (truth <= high + _Z * se_high)
    n, held = len(error), int(holds.sum())
    share = (held + _Z**2 / 2) / (n + _Z**2)
    evidence: dict[str, Any] = {"repetitions": n, "held": held, "log_z_exact": truth, "temperatures": len(schedule)}
    square = error**2
    rmse = math.sqrt(square.mean())
    numbers = {
        "coverage": (held / n, math.sqrt(share * (1 - share) / (n + _Z**2))),
        "bias": (error.mean(), error.std(ddof=1) / math.sqrt(n)),
        "rmse": (rmse, square.std(ddof=1) / math.sqrt(n) / (2 * rmse) if rmse > 0 else 0.0),
        "stated_se": (stated.mean(), stated.std(ddof=1) / math.sqrt(n)),
    }
    return Estimates(
        [Estimate(name, float(value), None, float(se), None, evidence) for name, (value, se) in numbers.items()],
        arrays={"error": error, "stated_se": stated},
    )


def _annealed(
    model: Energy, path: AnnealedPath, schedule: np.ndarray, settings: Settings, bench: Workbench
) -> tuple[np.ndarray, ...]:
    """Ends of each repetition's interval before the standard errors are added, and those: four arrays (repetitions,).

    One direction alone gives both ends.
    """
    shape = (settings.repetitions, settings.chains)
    ends = []
    if settings.method != "reverse-ais":
        start = path.sample_base(math.prod(shape), bench.generator)
        log_weights = anneal(path, schedule, start, settings.transitions, bench).view(shape).cpu().numpy()
        ends.append((path.log_z_base + log_mean_exp(log_weights), delta_se(log_weights)))
    if settings.method != "ais":
        start = exact_states(enumeration_with_states(model), math.prod(shape), bench)
        log_weights = anneal(path, schedule[::-1], start, settings.transitions, bench).view(shape).cpu().numpy()
        ends.append((path.log_z_base - log_mean_exp(log_weights), delta_se(log_weights)))
    (low, se_low), (high, se_high) = ends[0], ends[-1]
    return low, high, se_low, se_high


def _populations(
    path: AnnealedPath, schedule: np.ndarray, settings: Settings, bench: Workbench
) -> tuple[np.ndarray, ...]:
    found = anneal_populations(
        path,
        schedule,
        settings.repetitions,
        settings.chains,
        settings.transitions,
        settings.resample_below,
        bench,
    )
    log_z = path.log_z_base + found.log_ratio
    return log_z, log_z, found.se, found.se
