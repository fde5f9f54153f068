"""Population annealing: replicas that are annealed together and resampled on the way.

    log Z = log Z_0 + sum_t log sum_r W_r u_r,   u_r = p*_{beta_{t+1}}(x_r) / p*_{beta_t}(x_r),   W the weights before t

Replicas start as exact draws from the base. Where the relative effective sample size of the weights W u falls below
`resample_below`, R replicas are drawn by them (systematic resampling) and W becomes 1 / R; then all make their
transitions at the new temperature. Z is unbiased for a schedule that is fixed beforehand, with any rule of resampling
that looks at the present replicas alone, so that log Z is too low in expectation.

A family is what has come from one of the R first replicas; s_f is its share of the weights at the end.

    rho_t = R sum_f s_f^2,    effective families 1 / sum_f s_f^2,    se = sqrt((rho_t - 1) / (R - 1))

The standard error is the delta method over families: log Z is a mean of R first replicas' contributions R s_f Z, and
families, unlike replicas, start independent. Without resampling it is AIS's. It is too large where resampling is
frequent and transitions mix well, since relatives forget their ancestor while the formula does not; that is why the
default resamples only when half of the replicas would be lost.

References: Hukushima and Iba, "Population annealing and its application to a spin glass", 2003; Machta, "Population
annealing with weighted averages", 2010 (log Z, rho_t); Wang, Machta and Katzgraber, "Population annealing: theory and
application in spin glasses", 2015, section III (rho_t bounds R var(log Z)); Lee and Whiteley, "Variance estimation in
the particle filter", 2018 (variance from families).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._annealing import AnnealingSettings, betas, relative_ess, systematic
from dgmbench.estimators.base import Estimate, Estimates, Metric, Workbench
from dgmbench.models.base import AnnealedPath, Energy

SMOKE = {"replicas": 30}


class Settings(AnnealingSettings):
    replicas: int = Field(1000, ge=4, description="Replicas R of the population.")
    resample_below: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Relative effective sample size below which the population is resampled; 1 resamples at every "
        "temperature, as published.",
    )
    tolerance: float = Field(0.1, gt=0, description="Largest standard error of log Z that counts as converged, nats.")


REQUIRES = Energy
METRICS = {
    "log_z": Metric(
        "nats",
        "estimate",
        "neither",
        "Log partition function by population annealing: a lower bound in expectation, not in each run.",
    ),
    "log_likelihood": Metric(
        "nats",
        "estimate",
        "higher",
        "Mean log p(x) with population annealing's log Z, a lower bound in expectation: this is optimistic in "
        "expectation.",
    ),
}


@dataclass(frozen=True)
class Populations:
    """g independent populations at beta = 1: log Z / Z_0 (g,), shares (g, R) of the families, and resamplings (g,)."""

    log_ratio: np.ndarray
    family_share: np.ndarray
    resamplings: np.ndarray

    @property
    def rho(self) -> np.ndarray:
        """rho_t = R sum_f s_f^2, from 1 (all families equal) to R (one left): (g,)."""
        return self.family_share.shape[1] * (self.family_share**2).sum(axis=1)

    @property
    def se(self) -> np.ndarray:
        """Standard error of each log Z, by the delta method over families: (g,)."""
        return np.sqrt(np.maximum(self.rho - 1, 0) / (self.family_share.shape[1] - 1))


def scorings(settings: Settings, examples: int) -> float:
    return 3.0 * settings.replicas * settings.transitions * settings.temperatures + examples


def estimate(model: Energy, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """log Z and the mean log-likelihood.

    Converged means: at least 10 effective families, or half of the replicas if that is less, and 5 % of the replicas;
    no family has more than half of the weight; and the standard error of log Z is at most `tolerance`. The evidence
    names what fails.
    """
    path = model.annealed_path(data)
    schedule = betas(path, settings, bench.generator)
    found = anneal_populations(
        path, schedule, 1, settings.replicas, settings.transitions, settings.resample_below, bench
    )
    log_z, se, share = path.log_z_base + float(found.log_ratio[0]), float(found.se[0]), found.family_share[0]
    n, effective = settings.replicas, settings.replicas / float(found.rho[0])
    failing = [
        reason
        for reason, fails in (
            ("too few effective families", effective < max(min(10.0, 0.5 * n), 0.05 * n)),
            ("one family has more than half of the weight", share.max() > 0.5),
            ("standard error above tolerance", se > settings.tolerance),
        )
        if fails
    ]
    evidence = {
        "replicas": n,
        "temperatures": len(schedule),
        "resamplings": int(found.resamplings[0]),
        "rho_t": float(found.rho[0]),
        "effective_families": effective,
        "surviving_families": int((share > 0).sum()),
        "largest_family_share": float(share.max()),
        "se_families": se,
        "tolerance": settings.tolerance,
        "not_converged_because": "; ".join(failing) or None,
    }
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator)
    log_prob = (model.log_unnormalised(x.to(bench.device)) - log_z).cpu().numpy()
    return Estimates(
        [
            Estimate("log_z", log_z, None, se, not failing, evidence),
            Estimate("log_likelihood", float(log_prob.mean()), log_prob, se, not failing, evidence),
        ],
        arrays={"family_share": share, "betas": schedule},
    )


def anneal_populations(
    path: AnnealedPath,
    inverse_temperatures: np.ndarray,
    populations: int,
    replicas: int,
    transitions: int,
    resample_below: float,
    bench: Workbench,
) -> Populations:
    """Anneal g independent populations of R replicas as one batch of chains.

    Raises:
        CannotBeDone: weights that are not finite.
    """
    g, n, generator = populations, replicas, bench.generator
    state = path.sample_base(g * n, generator)
    log_weights = torch.zeros(g, n, dtype=torch.float64, device=state.device)  # the mean of w over R is Z / Z_0
    family = torch.arange(n, device=state.device).expand(g, n)
    resamplings = torch.zeros(g, dtype=torch.int64, device=state.device)
    pairs = list(pairwise(inverse_temperatures.tolist()))
    with bench.progress.task("anneal", total=len(pairs), unit="temperature") as task:
        for done, (beta_from, beta_to) in enumerate(pairs, start=1):
            log_weights = log_weights + path.log_ratio(state, beta_from, beta_to).view(g, n)
            if not log_weights.isfinite().all():
                raise CannotBeDone("annealed importance weights are not finite: the model's energy overflows")
            if done < len(pairs):  # after the last ratio the weights say more than a draw by them
                poor = relative_ess(log_weights) < resample_below
                if poor.any():
                    chosen = _survivors(log_weights, poor, generator)
                    state = state[(chosen + n * torch.arange(g, device=state.device)[:, None]).flatten()]
                    family = family.gather(1, chosen)
                    mean = torch.logsumexp(log_weights, 1, keepdim=True) - np.log(n)
                    log_weights = torch.where(poor[:, None], mean.expand(g, n), log_weights)
                    resamplings += poor
                for _ in range(transitions):
                    state = path.step(state, beta_to, generator)
            task.advance()
    log_ratio = torch.logsumexp(log_weights, 1) - np.log(n)
    share = torch.zeros_like(log_weights).scatter_add_(1, family, torch.softmax(log_weights, 1))
    return Populations(log_ratio.cpu().numpy(), share.cpu().numpy(), resamplings.cpu().numpy())


def _survivors(log_weights: Tensor, poor: Tensor, generator: torch.Generator) -> Tensor:
    """Indices of the replicas that stay: systematically drawn where a population is poor, else all: (g, R)."""
    every = torch.arange(log_weights.shape[1], device=log_weights.device).expand_as(log_weights)
    return torch.where(poor[:, None], systematic(log_weights, generator), every)
