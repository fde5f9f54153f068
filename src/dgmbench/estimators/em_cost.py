"""What an iteration of EM costs for a Gaussian mixture, beside scikit-learn's from the same start.

    seconds_per_iteration = median over t = 2 ... T of the time of (theta_{t-1} -> theta_t),   an E- and an M-step
    speed_ratio           = peer_seconds_per_iteration / seconds_per_iteration, on the same examples
    log_likelihood_gap    = (1/n) sum_i log p(z_i; theta_T) - the same of the peer, nats

Both programs start from the trained mixture's parameters, see the same whitened examples, add the same ridge and use
the same number of threads, in one process. An iteration of ours is one pass over the data, the M-step and the Cholesky
factors; what training does beside it (validation, a check of the rounding) is not in it. `gemm_share` puts the time of
the two matrix products alone beside ours: the nearer to 1, the less is left to gain on this machine without a cheaper
algorithm. Log-likelihoods are those of each program's own arithmetic, of whitened data.

Clock readings are not reproducible bits: the same run gives others the next time, and other machines others still. The
two gaps are arithmetic, and repeat. The programs are timed one after the other: what else the machine does meanwhile is
in the ratios too. A part cannot take longer than the whole: where `gemm_share` is above 1, by more than a twentieth for
the clock, the machine was busy, and the readings count as not converged.

Reference: Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm", Journal of the
Royal Statistical Society B 39(1), 1977; the peer: Pedregosa et al., "Scikit-learn: machine learning in Python", Journal
of Machine Learning Research 12, 2011.
"""

import math
from typing import Any

import torch
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.estimators._em_timing import (
    PRECISIONS,
    Timing,
    TimingSettings,
    common_start,
    time_ours,
    time_peer,
    time_products,
)
from dgmbench.estimators.base import Estimate, Estimates, Metric, Workbench
from dgmbench.models.base import Density

REQUIRES = Density
METRICS = {
    "seconds_per_iteration": Metric("seconds", "score", "lower", "median time of an EM iteration of ours"),
    "peer_seconds_per_iteration": Metric(
        "seconds", "score", "neither", "median time of an EM iteration of scikit-learn, on at most peer_examples"
    ),
    "speed_ratio": Metric("ratio", "score", "higher", "the peer's seconds over ours, on the same examples"),
    "log_likelihood_gap": Metric(
        "nats", "score", "neither", "ours minus the peer's mean log-likelihood after the same iterations"
    ),
    "float32_gap": Metric("nats", "score", "neither", "mean log-likelihood of ours in float32 minus in float64"),
    "gemm_share": Metric("ratio", "score", "neither", "time of the two matrix products alone over that of ours"),
}
# Numbers that come from a clock: equal inputs do not give them again.
CLOCK_READINGS = frozenset({"seconds_per_iteration", "peer_seconds_per_iteration", "speed_ratio", "gemm_share"})
SMOKE: dict = {"iterations": 4}

_LARGEST_SHARE = 1.05


class Settings(TimingSettings):
    peer_examples: int | None = Field(
        None, ge=1, description="The peer, and ours beside it, see only the first so many examples; null for all."
    )


def scorings(settings: Settings, examples: int) -> float:
    # Ours twice or thrice, the products and the peer, each with an E- and an M-step.
    return 8.0 * settings.iterations * examples


def estimate(model: Density, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Time ours in the precision that is set (in the other only its log-likelihood is used), the peer, the products.

    `seconds_per_iteration`, `float32_gap` and `gemm_share` are of all `examples`; with fewer `peer_examples`, ours is
    timed again on those, for `speed_ratio` and `log_likelihood_gap`. `estimator_se` of a time is that of the median
    over iterations, and None where only one iteration is timed.

    Raises:
        CannotBeDone: the model is no Gaussian mixture, or either program finds a covariance that is not definite.
    """
    start, z = common_start(model, data, settings, bench.device)
    shared = z[: settings.peer_examples]
    with bench.progress.task("EM", total=5, unit="program") as task:
        ours = {}
        for precision in PRECISIONS:
            ours[precision] = time_ours(z, start, precision, settings)
            task.advance(1)
        own = ours[settings.precision]
        products = time_products(z, start, settings.precision, settings)
        task.advance(1)
        beside = own if len(shared) == len(z) else time_ours(shared, start, settings.precision, settings)
        task.advance(1)
        peer = time_peer(shared, start, settings.precision, settings)
        task.advance(1)
    sizes = {"examples": len(z), "components": start.means.shape[0], "dimensions": start.means.shape[1]}
    gap = beside.log_likelihood - peer.log_likelihood
    both = {"log_likelihood": beside.log_likelihood, "peer_log_likelihood": peer.log_likelihood}
    share = products.seconds / own.seconds
    of_arithmetic = {f"log_likelihood_{precision}": ours[precision].log_likelihood for precision in PRECISIONS}
    numbers = Estimates(
        [
            _time("seconds_per_iteration", own, sizes),
            _time("peer_seconds_per_iteration", peer, {**sizes, "examples": len(shared)}),
            _ratio("speed_ratio", peer, beside, {"examples": len(shared)}),
            Estimate("log_likelihood_gap", gap, evidence={"examples": len(shared), **both}),
            Estimate(
                "float32_gap", ours["float32"].log_likelihood - ours["float64"].log_likelihood, evidence=of_arithmetic
            ),
            _ratio("gemm_share", products, own, {"products_seconds": list(products.all_seconds)}),
        ]
    )
    if share > _LARGEST_SHARE:
        for number in numbers.numbers:
            if number.metric in CLOCK_READINGS:
                number.converged = False
                reason = f"the products alone took {share:.2f} of the whole iteration's time"
                number.evidence["not_converged_because"] = reason
    return numbers


def _time(metric: str, timing: Timing, sizes: dict[str, int]) -> Estimate:
    evidence = {**sizes, "threads": torch.get_num_threads(), "seconds": list(timing.all_seconds)}
    return Estimate(metric, timing.seconds, estimator_se=timing.standard_error, evidence=evidence)


def _ratio(metric: str, above: Timing, below: Timing, evidence: dict[str, Any]) -> Estimate:
    """A ratio of two medians, with the standard error that theirs give to first order."""
    ratio, error = above.seconds / below.seconds, None
    if above.standard_error is not None and below.standard_error is not None:
        error = ratio * math.hypot(above.standard_error / above.seconds, below.standard_error / below.seconds)
    return Estimate(metric, ratio, estimator_se=error, evidence=evidence)
