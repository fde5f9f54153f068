"""How far mean field is from the Boltzmann machine that a zeta leaves of a relaxed prior, round after round.

    p_zeta(z) = p(z given zeta) = exp(-E(z) + b(zeta).z) / Z_zeta,    b = log r(. given 1) - log r(. given 0)
    KL(m || p_zeta) = log Z_zeta - [H(m) - E(m) + b.m],    m = prod_i m_i after 0, 1, 2, ... rounds from m_i = 1/2

The bracket replaces log Z_zeta in log p(zeta): its error is this divergence, never negative. log Z_zeta is

- `enumeration`: summed over all states of the smaller side, exact;
- `annealing`: by annealed importance sampling for each zeta from the last mean field itself (its log-odds the biases of
  independent units), of which the chains need correct only what the divergence says. Too low on average, by Jensen, as
  is then the divergence.

The zeta are one draw for each example from a posterior, see `_relaxed_prior`.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, equations 4 and 6, figure 2 (a) and (b); Neal, "Annealed importance sampling", 2001.
"""

import math
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._annealing import anneal
from dgmbench.estimators._log_weights import delta_se, log_mean_exp
from dgmbench.estimators._relaxed_prior import RelaxedSettings, relaxed_machine
from dgmbench.estimators.base import Estimate, Estimates, Metric, Workbench
from dgmbench.estimators.enumeration import log_partition
from dgmbench.models.base import BinaryLatents
from dgmbench.models.boltzmann._bipartite import Bipartite, Path
from dgmbench.models.variational._boltzmann_prior import OverlappingRelaxation

REQUIRES = BinaryLatents
METRICS = {
    "divergence": Metric("nats", "score", "lower", "mean KL(m || p(z given zeta)) after the last round"),
    "divergence_after_one_round": Metric("nats", "score", "lower", "the same after the first round"),
}
SMOKE: dict = {"rounds": 3}

_BLOCK_STATES = 4096


class Settings(RelaxedSettings):
    log_z: Literal["enumeration", "annealing"] = Field(
        "enumeration", description="How log Z of the machine that zeta leaves is had; enumeration up to 20 units."
    )
    temperatures: int = Field(200, ge=2, description="Of annealing alone: inverse temperatures, evenly spaced.")
    chains: int = Field(100, ge=2, description="Of annealing alone: chains for each zeta.")


def scorings(settings: Settings, examples: int) -> float:
    states = 2.0**14 if settings.log_z == "enumeration" else 2.0 * settings.temperatures * settings.chains
    return examples * (states + settings.rounds**2)


def estimate(model: BinaryLatents, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Both divergences, for each example's zeta.

    Arrays: `divergence` (rounds + 1, n), from no round at all to the last.

    Raises:
        CannotBeDone: the machine is too large to be enumerated, or its energy overflows.
    """
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator).to(bench.device)
    relaxed = relaxed_machine(model, x, settings, bench.generator)
    zeta = relaxed.draw(bench.generator)
    bounds = torch.stack(tilted_bounds(relaxed.prior, zeta))
    if settings.log_z == "enumeration":
        log_z, se = enumerated(relaxed.prior, zeta, bench), 0.0
    else:
        log_z, errors = annealed(relaxed.prior, zeta, settings, bench)
        se = math.sqrt(float((errors**2).sum())) / len(errors)
    divergence = log_z - bounds.cpu().numpy()
    if not np.isfinite(divergence).all():
        raise CannotBeDone("the divergence is not finite for some zeta: the machine's energy overflows.")
    last = divergence[-1]
    evidence = {"log_z": settings.log_z, "largest": float(last.max()), "median": float(np.median(last))}
    return Estimates(
        [
            Estimate("divergence", float(last.mean()), last, se, evidence=evidence),
            Estimate("divergence_after_one_round", float(divergence[1].mean()), divergence[1], se),
        ],
        {"divergence": divergence},
    )


def tilted_bounds(prior: OverlappingRelaxation, zeta: Tensor) -> list[Tensor]:
    """H(m) - E(m) + b(zeta).m after 0, 1, ..., `max_iterations` rounds: (n, D) -> (n,) each, nats."""
    constant = prior.smoothing.log_densities(zeta)[0].sum(-1)
    counts = range(prior.max_iterations + 1)
    priors = [OverlappingRelaxation(prior.machine, prior.smoothing, max_iterations=count) for count in counts]
    return [one.log_unnormalised(zeta) - constant for one in priors]


def tilted(prior: OverlappingRelaxation, zeta: Tensor) -> list[Bipartite]:
    """For each zeta the machine with b(zeta) added to its biases."""
    sides = prior.smoothing.log_ratio(zeta).split(list(prior.machine.weights.shape), -1)
    machine = prior.machine
    return [Bipartite(machine.weights, machine.own + own, machine.other + other) for own, other in zip(*sides)]


def enumerated(prior: OverlappingRelaxation, zeta: Tensor, bench: Workbench) -> np.ndarray:
    """log Z_zeta, exact: (n,), nats. Raises `CannotBeDone` where the smaller side has more than 20 units."""
    found = np.empty(len(zeta))
    with bench.progress.task("enumerate", total=len(zeta), unit="zeta") as task:
        for i, machine in enumerate(tilted(prior, zeta)):
            found[i] = log_partition(machine.enumeration(), _BLOCK_STATES, bench.device)
            task.advance()
    return found


def annealed(
    prior: OverlappingRelaxation, zeta: Tensor, settings: Settings, bench: Workbench
) -> tuple[np.ndarray, np.ndarray]:
    """log Z_zeta and its standard error by annealing from mean field, for each zeta: (n,), (n,), nats."""
    means, betas = prior.mean_field(zeta), np.linspace(0.0, 1.0, settings.temperatures)
    found, errors = np.empty(len(zeta)), np.empty(len(zeta))
    quiet = Workbench(bench.generator)
    with bench.progress.task("anneal", total=len(zeta), unit="zeta") as task:
        for i, machine in enumerate(tilted(prior, zeta)):
            base_own = machine.own + machine.weights @ means.other[i]
            base_other = machine.other + means.own[i] @ machine.weights
            path = Path(machine, base_own, base_other)
            start = path.sample_base(settings.chains, bench.generator)
            log_weights = anneal(path, betas, start, 1, quiet).cpu().numpy()
            found[i], errors[i] = path.log_z_base + log_mean_exp(log_weights), delta_se(log_weights)
            task.advance()
    return found, errors
