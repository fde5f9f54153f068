"""Annealed importance sampling: log Z of an unnormalised model, and the log-likelihood that follows from it.

    log w = sum_t log p*_{beta_t}(x_{t-1}) - log p*_{beta_{t-1}}(x_{t-1}),   x_0 from p_0,  x_t from T_{beta_t}(x_{t-1})
    Z = Z_0 E[w],    log Z estimated by log Z_0 + log mean_c w_c over independent chains c

w is unbiased for Z / Z_0, so log Z is too low in expectation (Jensen) and log p(x) = log p*(x) - log Z too high.

References: Neal, "Annealed importance sampling", 2001, section 2 and equation 11; Salakhutdinov and Murray,
"On the quantitative analysis of deep belief networks", ICML 2008 (its three-part schedule is
`salakhutdinov-murray`); the sigmoid schedule is that of Grosse, Ghahramani and Adams, "Sandwiching the
marginal likelihood using bidirectional Monte Carlo", 2015, with delta = 4.
"""

import math
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import AnnealedPath, Energy

_SIGMOID_DELTA = 4.0
_SALAKHUTDINOV_MURRAY = 14_501


class Settings(EstimatorSettings):
    schedule: Literal["linear", "sigmoid", "salakhutdinov-murray"] = Field(
        "linear",
        description="Spacing of the inverse temperatures. salakhutdinov-murray: steps of 1/1000 up to 0.5, "
        "1/10,000 up to 0.9 and 1/100,000 up to 1: 14,501 temperatures.",
    )
    temperatures: int = Field(
        10_000, ge=2, description="Inverse temperatures, both ends counted; salakhutdinov-murray has its own number."
    )
    chains: int = Field(1000, ge=4, description="Independent annealed chains.")
    transitions: int = Field(1, ge=1, description="Transitions at each temperature.")
    tolerance: float = Field(0.1, gt=0, description="Largest standard error of log Z that counts as converged, nats.")

    @model_validator(mode="before")
    @classmethod
    def _number_of_the_schedule(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("schedule") != "salakhutdinov-murray":
            return values
        if values.get("temperatures", _SALAKHUTDINOV_MURRAY) != _SALAKHUTDINOV_MURRAY:
            raise ValueError(f"salakhutdinov-murray has {_SALAKHUTDINOV_MURRAY} temperatures: leave 'temperatures' out")
        return {**values, "temperatures": _SALAKHUTDINOV_MURRAY}


REQUIRES = Energy
METRICS = {
    "log_z": Metric(
        "nats", "estimate", "neither", "Log partition function by AIS: a lower bound in expectation, not in each run."
    ),
    "log_likelihood": Metric(
        "nats",
        "estimate",
        "higher",
        "Mean log p(x) with AIS's log Z; AIS's log Z is a lower bound in expectation, so this is optimistic in "
        "expectation.",
    ),
}


def scorings(settings: Settings, examples: int) -> float:
    return 2.0 * settings.chains * settings.transitions * len(betas(settings)) + examples


def estimate(model: Energy, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """log Z and the mean log-likelihood.

    Converged means: the effective sample size is at least 5, half of the chains or 10 (whichever is less), and 5 % of
    the chains; the two halves of the chains agree within three combined standard errors or within `tolerance`;
    and the standard error of log Z is at most `tolerance`. The evidence names what fails.
    """
    path = model.annealed_path(data)
    log_weights = anneal(path, betas(settings), settings, bench)
    log_z, se, converged, evidence = summarise(path.log_z_base, log_weights.cpu().numpy(), settings.tolerance)
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator)
    log_prob = (model.log_unnormalised(x.to(bench.device)) - log_z).cpu().numpy()
    return Estimates(
        [
            Estimate("log_z", log_z, None, se, converged, evidence),
            Estimate("log_likelihood", float(log_prob.mean()), log_prob, se, converged, evidence),
        ],
        arrays={"log_weights": log_weights.cpu().numpy()},
    )


def betas(settings: Settings) -> np.ndarray:
    """Inverse temperatures from 0 to 1, both included: (T,), float64, increasing."""
    if settings.schedule == "salakhutdinov-murray":
        # Ratios of integers: no rounding accumulates over 14,501 temperatures.
        thousandths = np.arange(0, 500) / 1_000
        ten_thousandths = np.arange(5_000, 9_000) / 10_000
        hundred_thousandths = np.arange(90_000, 100_001) / 100_000
        return np.concatenate([thousandths, ten_thousandths, hundred_thousandths])
    linear = np.linspace(0.0, 1.0, settings.temperatures)
    if settings.schedule == "linear":
        return linear
    # sigmoid(x) = (1 + tanh(x / 2)) / 2, moved and scaled so that it runs from 0 to 1.
    curve = np.tanh(_SIGMOID_DELTA * (linear - 0.5)) / math.tanh(_SIGMOID_DELTA / 2)
    rescaled = (1 + curve) / 2
    rescaled[0], rescaled[-1] = 0.0, 1.0
    return rescaled


def anneal(path: AnnealedPath, inverse_temperatures: np.ndarray, settings: Settings, bench: Workbench) -> Tensor:
    """Log importance weights of independent chains: (chains,), float64, nats."""
    state = path.sample_base(settings.chains, bench.generator)
    log_weights = torch.zeros(settings.chains, dtype=torch.float64, device=state.device)
    pairs = list(zip(inverse_temperatures[:-1].tolist(), inverse_temperatures[1:].tolist()))
    with bench.progress.task("anneal", total=len(pairs), unit="temperature") as task:
        for beta_from, beta_to in pairs:
            log_weights += path.log_ratio(state, beta_from, beta_to)
            if beta_to < 1.0:  # after the last ratio nobody looks at the state
                for _ in range(settings.transitions):
                    state = path.step(state, beta_to, bench.generator)
            task.advance()
    return log_weights


def summarise(
    log_z_base: float, log_weights: np.ndarray, tolerance: float
) -> tuple[float, float, bool, dict[str, float | str | None]]:
    """log Z, its standard error, whether it has converged, and the evidence.

    Standard error by the delta method, sd(w) / (mean(w) sqrt(n)); the jackknife stands beside it.
    """
    if not np.isfinite(log_weights).all():
        raise CannotBeDone("annealed importance weights are not finite: the model's energy overflows")
    n, half = len(log_weights), len(log_weights) // 2
    log_z = log_z_base + _log_mean_exp(log_weights)
    first, second = (log_z_base + _log_mean_exp(part) for part in (log_weights[:half], log_weights[half:]))
    se = _delta_se(log_weights)
    se_of_halves = math.hypot(_delta_se(log_weights[:half]), _delta_se(log_weights[half:]))
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
        "not_converged_because": "; ".join(failing) or None,
    }
    return log_z, se, not failing, evidence


def _log_mean_exp(values: np.ndarray) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).mean()))


def _delta_se(log_weights: np.ndarray) -> float:
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.std(ddof=1) / (weights.mean() * math.sqrt(len(weights))))


def _jackknife_se(share: np.ndarray) -> float | None:
    """Of log sum w, with each chain left out in turn; None where one chain carries all the weight."""
    n = len(share)
    rest = 1.0 - share
    if rest.min() <= 0:
        return None
    left_out = np.log(rest / (n - 1))
    return float(math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))
