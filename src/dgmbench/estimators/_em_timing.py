"""Clock readings of EM for Gaussian mixtures: ours, scikit-learn's, and the two matrix products alone.

    theta <- natural parameters;  (log-likelihood, sums) <- one pass over the data;  moments + ridge I;  Cholesky

Reference: Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm", Journal of the
Royal Statistical Society B 39(1), 1977.
"""

import math
import time
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import EstimatorSettings
from dgmbench.models.base import Density
from dgmbench.models.density._gaussian import cholesky_factor, chunk_rows, mean_and_covariance
from dgmbench.models.mixtures._em import Workspace, moments, natural_parameters

PRECISIONS = ("float32", "float64")
_STATE = {"log_weights", "means", "factors"}
# Standard error of a median over that of a mean, of many normal readings.
_MEDIAN = math.sqrt(math.pi / 2)


class TimingSettings(EstimatorSettings):
    iterations: int = Field(
        5, ge=2, description="EM iterations from the common start; the first warms up, the others are timed."
    )
    precision: Literal["float32", "float64"] = Field("float32", description="Arithmetic of both programs.")
    components: int | None = Field(None, ge=1, description="The model's first so many components; null for all.")
    dimensions: int | None = Field(None, ge=1, description="The data's first so many coordinates; null for all.")
    ridge: float = Field(
        1e-3,
        ge=0,
        description="Variance that both programs add to every direction of every component, of whitened data.",
    )
    chunk: int = Field(2048, ge=1, description="Examples whose features are held at once by ours.")


@dataclass(frozen=True)
class Mixture:
    """Parameters in float64: log weights (k,), means (k, d), Cholesky factors (k, d, d), lower triangular."""

    log_weights: Tensor
    means: Tensor
    factors: Tensor

    def part(self, components: int | None, dimensions: int | None) -> "Mixture":
        """The first components, their weights made to sum to 1, and their marginal on the first coordinates.

        A marginal's covariance is a leading block, whose Cholesky factor is the leading block of the whole factor.
        """
        log_weights = self.log_weights[:components].log_softmax(0)
        means, factors = self.means[:components, :dimensions], self.factors[:components, :dimensions, :dimensions]
        return Mixture(log_weights, means.contiguous(), factors.contiguous())


@dataclass(frozen=True)
class Timing:
    """Seconds of every iteration (t,), the first of which warms up, and the mean log-likelihood at the end, nats."""

    all_seconds: tuple[float, ...]
    log_likelihood: float = math.nan

    @property
    def seconds(self) -> float:
        """Median over the iterations after the first."""
        return float(np.median(self.all_seconds[1:]))

    @property
    def standard_error(self) -> float | None:
        """Of the median, as if readings were normal; None where only one is left."""
        timed = self.all_seconds[1:]
        return _MEDIAN * float(np.std(timed, ddof=1)) / math.sqrt(len(timed)) if len(timed) > 1 else None


def common_start(
    model: Density, data: Dataset, settings: TimingSettings, device: torch.device
) -> tuple[Mixture, Tensor]:
    """The trained mixture and the scored examples of the split, both whitened by the training data: z is (n, d).

    Whitened as in training, by the mean and the covariance (plus the model's own ridge) of the training split. The
    whitening matrix is lower triangular: the first coordinates after it depend on the first before it alone.

    Raises:
        CannotBeDone: the model is no Gaussian mixture of full covariances; the run is not on the CPU; sizes that the
            run does not have.
    """
    state = model.state()
    if set(state) != _STATE:
        raise CannotBeDone(
            "only mixtures whose state is log_weights, means and factors can be timed, and this model's state is "
            f"{', '.join(state) or 'empty'}: evaluate a Gaussian mixture with full covariances instead."
        )
    covariance = getattr(model.spec, "covariance", "full")
    if covariance != "full":
        raise CannotBeDone(
            f"iterations of full covariances are timed, and this run's are {covariance}: evaluate another."
        )
    if device.type != "cpu":
        raise CannotBeDone("both programs are timed on the same processor: set device to cpu.")
    components, dimension = state["means"].shape
    split = data.splits[settings.split]
    for name, wanted, there in (
        ("components", settings.components, components),
        ("dimensions", settings.dimensions, dimension),
        ("examples", settings.examples, len(split)),
    ):
        if wanted is not None and wanted > there:
            raise CannotBeDone(
                f"the run has {there:,} {name}, not {wanted:,}: set {name} to {there} or fewer, or null."
            )
    mean, covariance = mean_and_covariance(data.train, device)
    covariance.diagonal().add_(getattr(model.spec, "ridge", 0.0))
    scale = cholesky_factor(covariance, "the training data")
    mixture = Mixture(
        state["log_weights"],
        torch.linalg.solve_triangular(scale, (state["means"] - mean).T, upper=False).T,
        torch.linalg.solve_triangular(scale, state["factors"], upper=False),
    ).part(settings.components, settings.dimensions)
    k, d = mixture.means.shape
    z = torch.empty(settings.examples or len(split), d, dtype=torch.float64)
    if len(z) < k * (d + 1):
        raise CannotBeDone(
            f"{k} components in {d} dimensions need {k * (d + 1):,} examples, not {len(z):,}: set more examples, or "
            "fewer components."
        )
    rows = chunk_rows(dimension)
    for start, part in zip(range(0, len(z), rows), z.split(rows), strict=True):
        centred = split.take(slice(start, start + len(part))).to(mean)[:, :d] - mean[:d]
        part.copy_(torch.linalg.solve_triangular(scale[:d, :d], centred.T, upper=False).T)
    return mixture, z


def time_ours(z: Tensor, start: Mixture, precision: str, settings: TimingSettings) -> Timing:
    """EM from `start` on z (n, d), as `models/mixtures` does it, without re-seeding of empty components.

    Raises:
        CannotBeDone: where a covariance is not positive definite.
    """
    z, dimension = z.to(getattr(torch, precision)), z.shape[1]
    log_weights, means, factors = start.log_weights, start.means, start.factors
    workspace = Workspace(len(means), dimension, settings.chunk, z.dtype, z.device)
    seconds = []
    for _ in range(settings.iterations):
        began = time.perf_counter()
        _, sums = workspace.accumulate(z, natural_parameters(log_weights, means, factors))
        counts, means, covariances = moments(sums, dimension)
        covariances.diagonal(dim1=1, dim2=2).add_(settings.ridge)
        factors, failed = torch.linalg.cholesky_ex(covariances)
        log_weights = (counts / counts.sum()).log()
        seconds.append(time.perf_counter() - began)
        if bool((failed > 0).any()):
            raise CannotBeDone(
                f"{int((failed > 0).sum())} of {len(means)} covariances are not positive definite in {precision} with "
                f"ridge {settings.ridge:g}: set a larger ridge, or fewer components."
            )
    theta = natural_parameters(log_weights, means, factors)
    return Timing(tuple(seconds), float(workspace.log_prob(z, theta).mean(dtype=torch.float64)))


def time_peer(z: Tensor, start: Mixture, precision: str, settings: TimingSettings) -> Timing:
    """`sklearn.mixture.GaussianMixture` from the same start on the same z, with as many threads as torch has.

    An iteration lasts from one E-step's beginning to the next one's; the E-step that scikit-learn does after the last
    M-step gives the log-likelihood and is not timed.

    Raises:
        CannotBeDone: where scikit-learn finds a covariance ill-defined.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    clock: list[float] = []
    log_likelihood: list[float] = []
    arithmetic: set[np.dtype] = set()

    class Clocked(GaussianMixture):
        def _e_step(self, *arguments, **options):
            # One float64 parameter makes every later array float64, and the peer slower than its own arithmetic is.
            for name in ("weights_", "means_", "precisions_cholesky_"):
                setattr(self, name, getattr(self, name).astype(dtype, copy=False))
            clock.append(time.perf_counter())
            mean, responsibilities = super()._e_step(*arguments, **options)
            arithmetic.add(responsibilities.dtype)
            log_likelihood.append(float(mean))
            return mean, responsibilities

    dtype = np.dtype(precision)
    x = z.numpy().astype(dtype)
    peer = Clocked(
        len(start.means),
        max_iter=settings.iterations,
        tol=0.0,
        reg_covar=settings.ridge,
        weights_init=start.log_weights.exp().numpy().astype(dtype),
        means_init=start.means.numpy().astype(dtype),
        # In float64 in any case: float32 could not check that a narrow component's precision is positive definite.
        precisions_init=torch.cholesky_inverse(start.factors).numpy(),
    )
    with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            peer.fit(x)
        except ValueError as error:
            raise CannotBeDone(f"scikit-learn in {precision} with ridge {settings.ridge:g} says: {error}") from None
    # The clock hangs on a private method: readings that it does not give must not become numbers.
    if len(clock) != settings.iterations + 1:
        raise CannotBeDone(
            f"this scikit-learn made {len(clock)} E-steps in {settings.iterations} iterations, not one more than them: "
            "install the version that constraints.txt names."
        )
    if arithmetic != {dtype}:
        raise CannotBeDone(
            f"this scikit-learn computes in {', '.join(sorted(map(str, arithmetic)))} where {precision} is timed: "
            "install the version that constraints.txt names."
        )
    return Timing(tuple(np.diff(clock).tolist()), log_likelihood[-1])


def time_products(z: Tensor, start: Mixture, precision: str, settings: TimingSettings) -> Timing:
    """The two matrix products of an iteration and nothing else, on buffers of the same shapes and ordinary numbers."""
    z = z.to(getattr(torch, precision))
    k, d = start.means.shape
    theta = natural_parameters(start.log_weights, start.means, start.factors).to(z.dtype)
    workspace = Workspace(k, d, settings.chunk, z.dtype, z.device)
    features = workspace.expand(z[: settings.chunk])
    responsibilities = workspace.posterior(theta, features)[0].clone()
    scores, sums = torch.empty_like(responsibilities), torch.empty_like(theta)
    sizes = [len(part) for part in z.split(settings.chunk)]
    seconds = []
    for _ in range(settings.iterations):
        began = time.perf_counter()
        for m in sizes:
            torch.mm(theta, features[:, :m], out=scores[:, :m])
            torch.mm(responsibilities[:, :m], features[:, :m].T, out=sums)
        seconds.append(time.perf_counter() - began)
    return Timing(tuple(seconds))
