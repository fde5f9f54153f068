"""Exact partition function and log-likelihood of a small Boltzmann machine, by summing over all states.

    log Z = log sum_s exp(log_term(s)) over the 2^bits states of the smaller side,
    log p(x) = log p*(x) - log Z

Sums are taken block by block in float64. The model says what its smaller side is, and refuses where that
side is too large to be enumerated.
"""

import torch
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Energy, Enumeration
from dgmbench.progress import NoProgress, Progress


class Settings(EstimatorSettings):
    block_states: int = Field(256, ge=1, description="States summed at once; memory grows with it, the sum does not.")


REQUIRES = Energy
METRICS = {
    "log_z": Metric("nats", "exact", "neither", "Log partition function, summed over all states."),
    "log_likelihood": Metric("nats", "exact", "higher", "Mean log p(x) with the exact partition function."),
}


def estimate(model: Energy, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """log Z and the mean log-likelihood, both exact. Raises `CannotBeDone` where the model is too large."""
    enumeration = model.enumeration()
    log_z = log_partition(enumeration, settings.block_states, bench.device, bench.progress)
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator)
    log_prob = (model.log_unnormalised(x.to(bench.device)) - log_z).cpu().numpy()
    states = 2**enumeration.bits
    return Estimates(
        [
            Estimate("log_z", log_z, evidence={"states": states}),
            Estimate("log_likelihood", float(log_prob.mean()), per_example=log_prob, evidence={"states": states}),
        ]
    )


def log_partition(
    enumeration: Enumeration,
    block_states: int = 256,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> float:
    """log sum_s exp(log_term(s)) over all 2^bits binary states s, in nats."""
    places = torch.arange(enumeration.bits, device=device)
    total = 2**enumeration.bits
    blocks = []
    with (progress or NoProgress()).task("enumerate", total=total, unit="state") as task:
        for start in range(0, total, block_states):
            index = torch.arange(start, min(start + block_states, total), device=device)
            states = (index[:, None] >> places & 1).double()
            blocks.append(torch.logsumexp(enumeration.log_term(states), 0))
            task.advance(len(index))
    return torch.logsumexp(torch.stack(blocks), 0).item()
