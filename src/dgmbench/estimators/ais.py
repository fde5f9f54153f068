"""Annealed importance sampling: log Z of an unnormalised model, and the log-likelihood that follows from it.

    log w = sum_t log p*_{beta_t}(x_{t-1}) - log p*_{beta_{t-1}}(x_{t-1}),   x_0 from p_0,  x_t from T_{beta_t}(x_{t-1})
    Z = Z_0 E[w],    log Z estimated by log Z_0 + log mean_c w_c over independent chains c

w is unbiased for Z / Z_0, so log Z is too low in expectation (Jensen) and log p(x) = log p*(x) - log Z too high.
`bracket` adds the bound from the other side.

References: Neal, "Annealed importance sampling", 2001, section 2 and equation 11; Salakhutdinov and Murray,
"On the quantitative analysis of deep belief networks", ICML 2008.
"""

from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.estimators._annealing import AnnealingSettings, anneal, betas
from dgmbench.estimators._log_weights import summarise
from dgmbench.estimators.base import Estimate, Estimates, Metric, Workbench
from dgmbench.models.base import Energy


class Settings(AnnealingSettings):
    chains: int = Field(1000, ge=4, description="Independent annealed chains.")
    tolerance: float = Field(0.1, gt=0, description="Largest standard error of log Z that counts as converged, nats.")


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
    return 2.0 * settings.chains * settings.transitions * settings.temperatures + examples


def estimate(model: Energy, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """log Z and the mean log-likelihood.

    Converged means: the effective sample size is at least 5, half of the chains or 10 (whichever is less), and 5 % of
    the chains; the two halves of the chains agree within three combined standard errors or within `tolerance`;
    and the standard error of log Z is at most `tolerance`. The evidence names what fails.
    """
    path = model.annealed_path(data)
    schedule = betas(path, settings, bench.generator)
    base_states = path.sample_base(settings.chains, bench.generator)
    log_weights = anneal(path, schedule, base_states, settings.transitions, bench).cpu().numpy()
    found = summarise(log_weights, path.log_z_base, settings.tolerance)
    evidence = {**found.evidence, "not_converged_because": "; ".join(found.failing) or None}
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator)
    log_prob = (model.log_unnormalised(x.to(bench.device)) - found.log_z).cpu().numpy()
    return Estimates(
        [
            Estimate("log_z", found.log_z, None, found.se, not found.failing, evidence),
            Estimate("log_likelihood", float(log_prob.mean()), log_prob, found.se, not found.failing, evidence),
        ],
        arrays={"log_weights": log_weights, "betas": schedule},
    )
