"""What EM of every mixture shares: its data in working coordinates, minibatches, starts, re-seeding, checks of float32.

Working coordinates z = scale^-1 (x - mean) keep float32 features precise. `scale` is the data's Cholesky factor
(whitened), their standard deviations, or one number: the last two keep axes, or distances, what they are, so that a
diagonal or spherical covariance of z is one of x.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.models import base
from dgmbench.models._kmeans import draw_seed, kmeans
from dgmbench.models.density._gaussian import cholesky_factor, mean_and_covariance
from dgmbench.models.mixtures import _em
from dgmbench.models.mixtures._components import whitened
from dgmbench.training.distributed import Group

Scaling = Literal["whitened", "axes", "common"]

CHUNK = 2048
VALIDATION_EXAMPLES = 20_000
_KMEANS_ITERATIONS = 20
_PROBED = 500
# Sums of float32 features are off by some of their last digits: a variance is one only well above them.
_ROUNDINGS = 16
# The E-step's own precision is compared with float64 at every iteration; more than this is refused.
_ROUNDING_NATS = 0.05


class Precise(base.ModelSpec):
    precision: Literal["float32", "float64"] = Field(
        "float32",
        description=f"Arithmetic of the E-step's features and of their sums over {CHUNK:,} examples, which are then "
        "added in float64.",
    )


def only_read(spec: Any, read: bool, when: str, *names: str) -> Any:
    """The spec, unless a setting that is not read differs from its default.

    Raises:
        ValueError: naming it, and when it would be read.
    """
    for name in names:
        if not read and getattr(spec, name) != type(spec).model_fields[name].default:
            raise ValueError(f"'{name}' is read {when} only: leave it out")
    return spec


class Stepwise(base.ModelSpec):
    minibatch: int | None = Field(
        None, ge=1, description="Examples between two M-steps (an iteration is a pass over all); null for all of them."
    )
    decay: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Minibatches: how fast step sizes (t + 2)^-decay fall; 0 for no memory of earlier ones.",
    )

    @model_validator(mode="after")
    def _decay_is_read(self) -> Self:
        return only_read(self, self.minibatch is not None, "with minibatches", "decay")


class Spec(Precise):
    """What a mixture's EM is told, whatever its components are."""

    components: int = Field(10, ge=1, description="Number of components.")
    iterations: int = Field(100, ge=1, description="Most EM iterations.")
    tolerance: float = Field(
        1e-4,
        ge=0,
        description="EM stops where the mean training log-likelihood, in nats, moves by less than this; 0 for never.",
    )
    ridge: float = Field(
        0.0, ge=0, description="Variance added to every direction of every component, in the data's units squared."
    )
    start: Literal["kmeans", "random"] = Field(
        "kmeans",
        description="First components: clusters of whitened examples, or random examples with the data's covariance.",
    )
    start_examples: int = Field(50_000, ge=1, description="How many training examples k-means sees.")


class Mixture(base.Model, base.Density, base.Sampler, base.Clusterer, base.PatchPrior):
    """What mixtures declare alike: capabilities, values, cost."""

    accepts = frozenset({"unit", "real"})
    distributed = True

    @classmethod
    def parts(cls, spec: Any) -> int:
        """How many densities are mixed."""
        return spec.components

    @classmethod
    def operations(cls, spec: Any, dimension: int) -> float:
        return float(cls.parts(spec) * dimension**2)

    @classmethod
    def passes(cls, spec: Any) -> float:
        return float(spec.iterations)


@dataclass(frozen=True)
class Working:
    """Data in working coordinates.

    Attributes:
        z: (n, d) this process's shard of the training data, whose rows begin at `first`; count: how many there are.
        probe: (m, d) evenly spaced training examples, the same for all processes.
        mean, scale: (d,), (d, d) of the coordinates; log_volume: log |scale|, nats.
        covariance: (d, d) of the training data, the ridge included; ridge: (d, d), both in working coordinates.
        advice: the ridge to write instead, in the data's units squared.
    """

    z: Tensor
    first: int
    count: int
    validation: Tensor
    probe: Tensor
    mean: Tensor
    scale: Tensor
    log_volume: float
    covariance: Tensor
    ridge: Tensor
    advice: float


def spread(count: int, wanted: int) -> Tensor:
    """Evenly spaced places among `count`, first and last included; all of them where fewer are there: (m,), int64."""
    number = min(count, wanted)
    return torch.arange(number) * (count - 1) // max(1, number - 1)


def working(
    data: Dataset, spec: Any, scaling: Scaling, components: int, least: int, device: torch.device, group: Group
) -> Working:
    """The coordinates that a mixture is fitted in; `least` examples are needed for each of `components`.

    Raises:
        CannotBeDone: too few examples, values that are not finite, or a singular covariance (says which ridge to set).
    """
    count, needed = len(data.train), components * least
    if count < needed:
        raise CannotBeDone(
            f"{components} components in {data.dimension} dimensions need {needed:,} training examples, not "
            f"{count:,}: set fewer components."
        )
    mean, covariance = mean_and_covariance(data.train, device)
    covariance.diagonal().add_(spec.ridge)
    if scaling == "whitened":
        scale = cholesky_factor(covariance, "the training data")
    else:
        variances = covariance.diagonal()
        if not bool((variances > 0).all()):
            raise CannotBeDone("some training values never change: set ridge to the least variance that they may have.")
        scale = torch.diag(variances.sqrt() if scaling == "axes" else variances.mean().sqrt().expand(len(mean)))
    dtype, share = getattr(torch, spec.precision), group.share(count)
    inverse = torch.linalg.solve_triangular(scale, torch.eye(len(mean)).to(scale), upper=False)
    return Working(
        z=whitened(data.train, torch.arange(count)[share], mean, scale, dtype),
        first=share.start,
        count=count,
        validation=whitened(data.validation, spread(len(data.validation), VALIDATION_EXAMPLES), mean, scale, dtype),
        probe=whitened(data.train, spread(count, _PROBED), mean, scale, dtype),
        mean=mean,
        scale=scale,
        log_volume=float(scale.diagonal().log().sum()),
        covariance=inverse @ covariance @ inverse.T if scaling != "whitened" else torch.eye(len(mean)).to(scale),
        ridge=spec.ridge * inverse @ inverse.T,
        advice=max(1e-6 * float(covariance.diagonal().mean()), 10 * spec.ridge),
    )


class Batch(NamedTuple):
    """What one process sees between two M-steps.

    Attributes:
        z: (n, d); places: (n,) in its shard.
        count: how many examples all processes see; share: that number over the usual one, below 1 for a last batch.
    """

    z: Tensor
    places: Tensor
    count: int
    share: float


def minibatches(work: Working, size: int | None, generator: torch.Generator) -> Iterator[Batch]:
    """Every example once, in an order drawn anew; all of them at once, and nothing drawn, where `size` is None."""
    if size is None:
        yield Batch(work.z, torch.arange(len(work.z), device=work.z.device), work.count, 1.0)
        return
    # Every process draws the order of all examples, and sees its own.
    order = torch.randperm(work.count, generator=generator, device=work.z.device)
    usual = min(size, work.count)
    for batch in order.split(usual):
        own = batch[(batch >= work.first) & (batch < work.first + len(work.z))] - work.first
        yield Batch(work.z[own], own, len(batch), len(batch) / usual)


def step_size(batches: int, decay: float, share: float) -> float:
    """rho_t = (t + 2)^-decay after t minibatches; one of `share` of the usual size counts as that part of a step."""
    return 1 - (1 - (batches + 2) ** -decay) ** share


def remembered(em: dict[str, Any], batch: Batch, sums: Tensor, decay: float, count: int) -> Tensor:
    """Sums over `count` examples for the next M-step: a moving average, which takes in this batch's, in place."""
    em["averages"].lerp_(sums / batch.count, step_size(em["batches"], decay, batch.share))
    em["batches"] += 1
    return em["averages"] * count


def exchanged_share(group: Group, before: int, work: Working) -> dict[str, float]:
    """Bytes put into collective operations since `before`, over the bytes of the training data; {} in one process."""
    if group.size == 1:
        return {}
    size = work.count * work.z.shape[1] * work.z.element_size()
    return {"exchanged_share": (group.exchanged - before) / size}


def blank(spec: Spec, dimension: int, device: torch.device) -> dict[str, Any]:
    """What EM carries from step to step, before it is restored: parameters in working coordinates, in float64."""
    k, d = spec.components, dimension
    shapes = {"log_weights": (k,), "means": (k, d), "factors": (k, d, d)}
    tensors = {name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
    return {**tensors, "previous": -math.inf, "stop": False}


def first_covariances(
    em: dict[str, Any], spec: Spec, data: Dataset, work: Working, generator: torch.Generator
) -> Tensor:
    """Weights and means of the first components, in place, and their covariances: (k, d, d).

    All processes draw alike: the examples that are looked at come from the whole of the training data.
    """
    k, d, device = spec.components, len(work.mean), work.z.device
    order = torch.randperm(work.count, generator=generator, device=device)
    em["log_weights"].fill_(-math.log(k))
    chosen = whitened(data.train, order[:k].cpu(), work.mean, work.scale, work.z.dtype)
    em["means"].copy_(chosen)
    if spec.start == "random":
        return work.covariance.expand(k, d, d).clone()
    rows = order[: max(spec.start_examples, k)].sort().values.cpu()
    seen = whitened(data.train, rows, work.mean, work.scale, work.z.dtype)
    _, labels, _ = kmeans(seen.float().cpu().numpy(), k, _KMEANS_ITERATIONS, draw_seed(generator))
    sums = _em.Workspace(k, d, CHUNK, seen.dtype, device).sums_of_labels(seen, torch.from_numpy(labels).to(device))
    # Each cluster is joined by d + 1 examples of the data's own covariance: small ones stay proper.
    counts, means, covariances = _em.moments(sums, d)
    prior = d + 1
    em["means"].copy_(means)
    em["log_weights"].copy_(((counts + 1) / (counts + 1).sum()).log())
    shrunk = counts[:, None, None] * covariances + prior * work.covariance
    return shrunk / (counts[:, None, None] + prior) + work.ridge


def split_the_largest(
    empty: Tensor,
    counts: Tensor,
    means: Tensor,
    covariances: Tensor,
    generator: torch.Generator,
    *,
    scales: bool = True,
) -> list[tuple[int, int]]:
    """Each empty component becomes a half of the largest, in place; returns the pairs (empty, largest).

    The halves drift apart from here: a little in place and, where `scales`, a little in scale.
    """
    pairs, d = [], means.shape[1]
    for k in empty.nonzero().flatten():
        largest = counts.argmax()
        direction = torch.randn(d, generator=generator, device=counts.device, dtype=counts.dtype)
        offset = 0.5 * torch.linalg.cholesky_ex(covariances[largest]).L @ (direction / direction.norm())
        ratio = math.exp(1 / math.sqrt(d)) if scales else 1.0
        counts[k] = counts[largest] = (counts[k] + counts[largest]) / 2
        means[k], means[largest] = means[largest] + offset, means[largest] - offset
        covariances[k], covariances[largest] = covariances[largest] * ratio, covariances[largest] / ratio
        pairs.append((int(k), int(largest)))
    return pairs


def check_rounding(spec: Precise, log_prob: Tensor, exact: Tensor) -> float:
    """Mean absolute difference between the E-step's log p(z) and float64, nats.

    Raises:
        CannotBeDone: where it is too large to go on with.
    """
    rounding = float((log_prob - exact).abs().mean())
    if rounding > _ROUNDING_NATS:
        raise CannotBeDone(
            f"{spec.precision} features are off by {rounding:.2g} nats because some densities are very narrow: set "
            "precision to float64, or a larger ridge."
        )
    return rounding


def factors_of(matrices: Tensor, means: Tensor, spec: Precise, advice: float, what: str) -> Tensor:
    """Cholesky factors of the components' covariances or scale matrices, named by `what`: (k, d, d) -> (k, d, d).

    Raises:
        CannotBeDone: where a direction is as narrow as the rounding of the second moments that it was formed from.
    """
    factors, failed = torch.linalg.cholesky_ex(matrices)
    narrowest = factors.diagonal(dim1=1, dim2=2).amin(1).square()
    largest = (matrices.diagonal(dim1=1, dim2=2) + means.square()).amax(1)
    rounding = _ROUNDINGS * torch.finfo(getattr(torch, spec.precision)).eps * largest
    collapsed = (failed > 0) | ~(narrowest > rounding)
    if bool(collapsed.any()):
        raise CannotBeDone(
            f"{int(collapsed.sum())} of {len(collapsed)} components collapsed: their {what} is as narrow as the "
            f"rounding of {spec.precision} with ridge {spec.ridge:g}. Set ridge to {advice:.1g} or more"
            f"{otherwise(spec)}."
        )
    return factors


def otherwise(spec: Any) -> str:
    """What else helps against components that are too narrow."""
    return ", or precision to float64" if spec.precision == "float32" else ", or fewer components"
