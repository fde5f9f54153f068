"""Bound on the log-likelihood of a small deep Boltzmann machine or belief network, with log Z summed over all states.

    bound(x) = E_q[log w] - log Z <= E[log (1/k) sum_i w_i] - log Z <= log p(x),
    w = p*(x, h) / q(h given x),    h from q(. given x),    Z = sum over the states of the smaller side

Reference: Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008, section 4;
the second bound: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, theorem 1.
"""

from dgmbench.data.prepared import Dataset
from dgmbench.estimators import enumeration
from dgmbench.estimators._bound_as_energy import BoundAsEnergy, Draws, with_estimate
from dgmbench.estimators.base import Estimates, Metric, Workbench
from dgmbench.models.base import VariationalBound


class Settings(enumeration.Settings, Draws):
    """Those of `enumeration`, and how often the posterior is drawn from."""


REQUIRES = VariationalBound
METRICS = {
    "log_z": enumeration.METRICS["log_z"],
    "bound": Metric("nats", "lower-bound", "higher", "Mean variational bound with the exact partition function."),
    "log_likelihood": Metric(
        "nats", "lower-bound", "higher", "Importance-weighted bound on the mean log p(x), with the exact log Z."
    ),
}


def scorings(settings: Settings, examples: int) -> float:
    return (1.0 + 2.0 * settings.k) * examples


def estimate(model: VariationalBound, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """log Z, exact, and two bounds, the second converged where more draws would not raise it.

    Raises:
        CannotBeDone: a model that is too large to be enumerated.
    """
    energy = BoundAsEnergy(model, settings, bench)
    return with_estimate(enumeration.estimate(energy, data, settings, bench), energy)
