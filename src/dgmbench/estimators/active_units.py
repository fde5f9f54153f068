"""Active latent units: those whose posterior mean moves with the data.

    A_u = Var_x(E[u given x]) > threshold,    u from q(. given x)

A unit that stays below the threshold carries nothing of x: its posterior is its prior. Where E[u given x] is itself a
mean over draws (a second stochastic layer), two independent halves of the draws give it twice, and their covariance
over x takes the place of the variance: it is free of the draws' noise in expectation.

Below a second layer, E[u given x] also moves where u merely follows the layer above, p(u given y) moving with y: such
a unit counts although the decoder need not read it and KL(q || p) of it is near zero. Long training brings it to
rest, little by little; after a short one the count of a lower layer is larger than what that layer carries.

Reference: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, section 5.2 and appendix C.
"""

import numpy as np
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Encoder

REQUIRES = Encoder
METRICS = {
    "active_units": Metric(
        "units",
        "score",
        "neither",
        "Latent units whose posterior mean varies with x, of all layers.",
    ),
    "active_units_of_the_first_layer": Metric(
        "units", "score", "neither", "Those of the layer next to the data, some of which may only follow the one above."
    ),
    "doubtful_units": Metric(
        "units", "score", "neither", "Units within a factor of two of the threshold: another would count otherwise."
    ),
}


class Settings(EstimatorSettings):
    threshold: float = Field(0.01, gt=0, description="Least variance over x of an active unit's posterior mean.")
    draws: int = Field(100, ge=2, description="Draws of the layers below, where posterior means need them; halved.")
    rows_per_call: int = Field(1000, ge=1, description="Examples encoded at once, which bounds the memory.")


def scorings(settings: Settings, examples: int) -> float:
    return float(settings.draws) * examples


def estimate(model: Encoder, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """How many units are active, over all layers and in the first; the evidence says how many of each layer, from the
    data upwards. `estimator_se` is None where posterior means are drawn: the doubtful units tell what draws can move.

    Arrays: `variances` (m,), A_u of every unit, and `layers` (m,), the layer of each, 1 next to the data.

    Raises:
        CannotBeDone: fewer than two examples.
    """
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator).to(bench.device)
    if len(x) < 2:
        raise CannotBeDone("a variance over examples needs two of them: raise the setting 'examples'.")
    halves: list[list[list[Tensor]]] = [[], []]
    with bench.progress.task("encode", total=2 * len(x), unit="example") as task:
        for half, draws in zip(halves, (settings.draws // 2, settings.draws - settings.draws // 2)):
            for block in x.split(settings.rows_per_call):
                half.append(model.posterior_means(block, draws, bench.generator))
                task.advance(len(block))
    by_layer = []
    for first, second in zip(zip(*halves[0]), zip(*halves[1])):
        a, b = (np.concatenate([block.double().cpu().numpy() for block in blocks]) for blocks in (first, second))
        by_layer.append(((a - a.mean(0)) * (b - b.mean(0))).sum(0) / (len(x) - 1))
    variances = np.concatenate(by_layer)
    layers = np.repeat(np.arange(1, len(by_layer) + 1), [len(layer) for layer in by_layer])
    evidence = {"threshold": settings.threshold}
    for layer, found in enumerate(by_layer, start=1):
        evidence[f"active_units_layer_{layer}"] = int((found > settings.threshold).sum())
        evidence[f"units_layer_{layer}"] = len(found)
    near = (variances > settings.threshold / 2) & (variances < 2 * settings.threshold)
    active = variances > settings.threshold
    counts = (active.sum(), active[layers == 1].sum(), near.sum())
    se = 0.0 if len(by_layer) == 1 else None
    numbers = [Estimate(name, float(n), estimator_se=se, evidence=evidence) for name, n in zip(METRICS, counts)]
    return Estimates(numbers, {"variances": variances, "layers": layers})
