"""Bound and estimate of the log-likelihood with log Z between two bounds, by annealing in both directions.

    bound(x) = E_q[log w] - log Z <= log p(x),    log p(x) estimated by log (1/k) sum_i w_i - log Z,
    w = p*(x, h) / q(h given x),    E[log Z from the base] <= log Z <= E[log Z from the target]

log Z is the midpoint of its two bounds: see `bracket`.

References: Grosse, Ghahramani and Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo", 2015;
Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008, section 4.
"""

from dgmbench.data.prepared import Dataset
from dgmbench.estimators import bracket
from dgmbench.estimators._bound_as_energy import BoundAsEnergy, Draws, with_estimate
from dgmbench.estimators.base import Estimates, Metric, Workbench
from dgmbench.models.base import VariationalBound


class Settings(bracket.Settings, Draws):
    """Those of `bracket`, and how often the posterior is drawn from."""


REQUIRES = VariationalBound
METRICS = {
    **{name: bracket.METRICS[name] for name in ("log_z_lower", "log_z_upper", "log_z")},
    "bound": Metric("nats", "estimate", "higher", "Mean variational bound with the midpoint of the bounds on log Z."),
    "log_likelihood": Metric(
        "nats",
        "estimate",
        "higher",
        "Mean log p(x) by importance sampling of the hidden units, with the midpoint of the bounds on log Z.",
    ),
}


def scorings(settings: Settings, examples: int) -> float:
    return bracket.scorings(settings, 0) + 2.0 * settings.k * examples


def estimate(model: VariationalBound, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Both bounds on log Z, their midpoint, the mean bound and the mean log-likelihood; converged as `bracket` is.

    Raises:
        CannotBeDone: exact states of a model that cannot be enumerated, or weights that are not finite.
    """
    energy = BoundAsEnergy(model, settings, bench)
    found = bracket.estimate(energy, data, settings, bench)
    lower, upper, log_z, bound = found.numbers
    rest = with_estimate(Estimates([log_z, bound], found.arrays), energy)
    return Estimates([lower, upper, *rest.numbers], rest.arrays)
