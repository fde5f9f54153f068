"""Exact partition function and log-likelihood of a small Boltzmann machine, by summing over all states.

    log Z = log sum_s exp(log_term(s)) over the 2^bits states of the smaller side,
    log p(x) = log p*(x) - log Z

Sums are taken block by block in float64. The model says what its smaller side is, and refuses where that
side is too large to be enumerated.
"""

import torch
from pydantic import Field
from torch import Tensor

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
    return torch.logsumexp(log_terms(enumeration, block_states, device, progress), 0).item()


def log_terms(
    enumeration: Enumeration,
    block_states: int = 256,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """log_term of every state, in the order of `states`: (2^bits,), float64, nats; 8 MB for 20 bits."""
    total = 2**enumeration.bits
    terms = torch.empty(total, dtype=torch.float64, device=device)
    with (progress or NoProgress()).task("enumerate", total=total, unit="state") as task:
        for start in range(0, total, block_states):
            index = torch.arange(start, min(start + block_states, total), device=device)
            terms[start : start + len(index)] = enumeration.log_term(states(index, enumeration.bits))
            task.advance(len(index))
    return terms


def states(index: Tensor, bits: int) -> Tensor:
    """The states of these numbers, their lowest bit first: (n,) -> (n, bits) of {0, 1} in float64."""
    return (index[:, None] >> torch.arange(bits, device=index.device) & 1).double()
