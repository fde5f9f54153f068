"""Bound and estimate of the log-likelihood of a deep Boltzmann machine or belief network, with log Z by annealing.

    bound(x) = E_q[log w] - log Z <= log p(x),    log p(x) estimated by log (1/k) sum_i w_i - log Z,
    w = p*(x, h) / q(h given x),    h from q(. given x)

log Z comes from annealed importance sampling, and is a lower bound in expectation: what is subtracted is too little in
expectation, so that the bound, too, is the estimate of a bound.

Reference: Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008, section 4;
Salakhutdinov and Hinton, "Deep Boltzmann machines", AISTATS 2009, section 3.3.
"""

from dgmbench.data.prepared import Dataset
from dgmbench.estimators import ais
from dgmbench.estimators._bound_as_energy import BoundAsEnergy, Draws, with_estimate
from dgmbench.estimators.base import Estimates, Metric, Workbench
from dgmbench.models.base import VariationalBound


class Settings(ais.Settings, Draws):
    """Those of `ais`, and how often the posterior is drawn from."""


REQUIRES = VariationalBound
METRICS = {
    "log_z": ais.METRICS["log_z"],
    "bound": Metric(
        "nats", "estimate", "higher", "Mean variational bound with AIS's log Z: the estimate of a lower bound."
    ),
    "log_likelihood": Metric(
        "nats", "estimate", "higher", "Mean log p(x) by importance sampling of the hidden units, with AIS's log Z."
    ),
}


def scorings(settings: Settings, examples: int) -> float:
    return ais.scorings(settings, examples) + 2.0 * settings.k * examples


def estimate(model: VariationalBound, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """log Z, the mean bound and the mean log-likelihood; converged as annealed importance sampling of log Z is, and the
    log-likelihood only where more draws of the posterior would not raise it."""
    energy = BoundAsEnergy(model, settings, bench)
    return with_estimate(ais.estimate(energy, data, settings, bench), energy)
