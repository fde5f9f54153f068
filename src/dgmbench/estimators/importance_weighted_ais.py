"""Importance-weighted bound of a model whose prior has an unknown log Z, with log Z by annealed importance sampling.

    L_k(x) = E[log (1/k) sum_i w_i] - log Z <= log p(x),   w_i = p*(x, h_i) / q(h_i given x),   h_i from q(. given x)

AIS's log Z is a lower bound in expectation: what is subtracted is too little in expectation, so that this is the
estimate of a lower bound. `boltzmann_bound_bracket` puts log Z between two bounds.

References: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, theorem 1; Salakhutdinov and
Murray, "On the quantitative analysis of deep belief networks", ICML 2008, for log Z; both together, with k = 4,000 and
10,000 temperatures of 1,000 chains: Vahdat, Andriyash and Macready, "DVAE#", NeurIPS 2018, section 4.
"""

import math

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.estimators import ais, importance_weighted
from dgmbench.estimators._annealing import anneal, betas
from dgmbench.estimators._log_weights import summarise
from dgmbench.estimators.base import Estimate, Estimates, Metric, Workbench
from dgmbench.models.base import LatentVariable, VariationalBound


class Settings(ais.Settings):
    """Those of `ais`, and how the bound is drawn: see `importance_weighted`."""

    k: int = Field(4000, ge=1, description="Importance samples for each example.")
    rows_per_call: int = Field(
        1000, ge=1, description="The most draws of latent variables at once, which bounds the memory."
    )
    gain: float = Field(0.1, gt=0, description="Largest gain from k/2 to k that counts as converged, nats.")


REQUIRES = VariationalBound
METRICS = {
    "log_z": ais.METRICS["log_z"],
    "log_likelihood": Metric(
        "nats",
        "estimate",
        "higher",
        "Importance-weighted bound L_k on the mean log p(x) with AIS's log Z: the estimate of a lower bound.",
    ),
}


class Normalised(LatentVariable):
    """A model's weights p*(x, h) / q(h given x), divided by Z."""

    def __init__(self, model: VariationalBound, log_z: float):
        self.model, self.log_z = model, log_z

    def log_weights(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        return self.model.log_weights_unnormalised(x, k, generator).double() - self.log_z


def scorings(settings: Settings, examples: int) -> float:
    return ais.scorings(settings, 0) + float(settings.k) * examples


def estimate(model: VariationalBound, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """log Z and the mean of L_k over the split.

    Standard errors add in squares: of log Z, and of the draws of q. Converged means that log Z is, as `ais` tests it,
    and that the bound gains less than `gain` from k/2 to k draws; with k = 1 that is an open question.
    """
    path = model.annealed_path(data)
    schedule = betas(path, settings, bench.generator)
    start = path.sample_base(settings.chains, bench.generator)
    log_weights = anneal(path, schedule, start, settings.transitions, bench).cpu().numpy()
    found = summarise(log_weights, path.log_z_base, settings.tolerance)
    drawing = importance_weighted.Settings(
        split=settings.split,
        examples=settings.examples,
        k=settings.k,
        rows_per_call=settings.rows_per_call,
        tolerance=settings.gain,
    )
    (bound,) = importance_weighted.estimate(Normalised(model, found.log_z), data, drawing, bench).numbers
    of_log_z = {f"ais_{name}": value for name, value in found.evidence.items()}
    of_log_z |= {"log_z": found.log_z, "ais_not_converged_because": "; ".join(found.failing) or None}
    se = None if bound.estimator_se is None else math.hypot(found.se, bound.estimator_se)
    converged = False if found.failing else bound.converged
    return Estimates(
        [
            Estimate("log_z", found.log_z, None, found.se, not found.failing, of_log_z),
            Estimate("log_likelihood", bound.value, bound.per_example, se, converged, bound.evidence | of_log_z),
        ],
        arrays={"log_weights": log_weights, "betas": schedule},
    )
