"""Means of importance weights whose logarithms are known, and how far such a mean can be trusted.

    log mean w = log (1/n) sum_c w_c,    se = sd(w) / (mean(w) sqrt(n))   (delta method),    ESS = (sum w)^2 / sum w^2

Weights are (..., n) arrays of logarithms in nats, over independent chains in the last dimension.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmbench.errors import CannotBeDone


@dataclass(frozen=True)
class Summary:
    """log Z from the weights of one run, its standard error, the tests that it fails, and what they rest on."""

    log_z: float
    se: float
    failing: list[str]
    evidence: dict[str, Any]


def log_mean_exp(log_weights: np.ndarray) -> np.ndarray:
    """log mean w over the last dimension: (..., n) -> (...)."""
    top = log_weights.max(axis=-1, keepdims=True)
    return top[..., 0] + np.log(np.exp(log_weights - top).mean(axis=-1))


def delta_se(log_weights: np.ndarray) -> np.ndarray:
    """Standard error of log mean w by the delta method: (..., n) -> (...)."""
    weights = np.exp(log_weights - log_weights.max(axis=-1, keepdims=True))
    return weights.std(axis=-1, ddof=1) / (weights.mean(axis=-1) * math.sqrt(log_weights.shape[-1]))


def summarise(log_weights: np.ndarray, log_z_base: float, tolerance: float, sign: float = 1.0) -> Summary:
    """log Z = log_z_base + sign log mean w of (n,) weights; the sign is -1 for weights of Z_0 / Z.

    The tests: the effective sample size is at least 5, half of the chains or 10 (whichever is less), and 5 % of the
    chains; the two halves of the chains agree within three combined standard errors or within `tolerance`; the standard
    error is at most `tolerance`. The jackknife's standard error stands beside that of the delta method.

    Raises:
        CannotBeDone: weights that are not finite.
    """
    if not np.isfinite(log_weights).all():
        raise CannotBeDone("annealed importance weights are not finite: the model's energy overflows")
    n, half = len(log_weights), len(log_weights) // 2
    parts = (log_weights[:half], log_weights[half:])
    log_z = log_z_base + sign * float(log_mean_exp(log_weights))
    first, second = (log_z_base + sign * float(log_mean_exp(part)) for part in parts)
    se = float(delta_se(log_weights))
    se_of_halves = math.hypot(*(float(delta_se(part)) for part in parts))
    share = np.exp(log_weights - log_weights.max())
    share /= share.sum()
    effective = 1.0 / float((share**2).sum())
    failing = [
        reason
        for reason, fails in (
            ("effective sample size too small", effective < max(5.0, min(10.0, 0.5 * n), 0.05 * n)),
            ("halves of the chains disagree", abs(first - second) > max(3 * se_of_halves, tolerance)),
            ("standard error above tolerance", se > tolerance),
        )
        if fails
    ]
    evidence = {
        "chains": n,
        "effective_sample_size": effective,
        "log_z_first_half": first,
        "log_z_second_half": second,
        "se_delta": se,
        "se_jackknife": _jackknife_se(share),
        "largest_weight_share": float(share.max()),
        "log_weight_variance": float(log_weights.var(ddof=1)),
        "tolerance": tolerance,
    }
    return Summary(log_z, se, failing, evidence)


def _jackknife_se(share: np.ndarray) -> float | None:
    """Of log sum w, with each chain left out in turn; None where one chain carries all the weight."""
    n = len(share)
    rest = 1.0 - share
    if rest.min() <= 0:
        return None
    left_out = np.log(rest / (n - 1))
    return float(math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))
