"""What discrete variational autoencoders cost: a training step, its sampler, and many-sample evaluation.

    sampler_share     = time of the negative phase's chains alone / time of a step
    share of the rate = (floating-point operations of a program's products / its seconds) / the machine's rate

with the rate, operations a second, of a large square product. A step is one update of new networks, with all that the
model's spec says (draws, chains, sweeps), less the validation bound, which is measured far more rarely; backward passes
count as two forward ones. An evaluation is the weights of `k` draws for each example, as `importance_weighted_ais`
takes them; log Z, whose cost does not grow with the examples, is not in it.

Clock readings are not reproducible bits: the same run gives others the next time, and other machines others still. All
programs are timed in turn, turn after turn, and a ratio is the median of the turns' ratios, so that what else the
machine does falls on both of its sides. A part cannot take longer than the whole, and equal products take equal times:
where `sampler_share` is above 1 by more than its clock, or a quarter of the square products took more than 1.3 times
their median, the machine was busy, and the readings count as not converged.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, section 4: what is trained and evaluated; no time is published there.
"""

import math

import torch
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.estimators import importance_weighted
from dgmbench.estimators._discrete_timing import discrete, time_steps
from dgmbench.estimators._timing import (
    LARGEST_SHARE,
    busy,
    clocked,
    mark_busy,
    paired_ratio,
    rate_of,
    square_product,
    time_of,
    turns,
)
from dgmbench.estimators.base import Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.estimators.importance_weighted_ais import Normalised
from dgmbench.models.base import VariationalBound
from dgmbench.models.variational._discrete import DiscreteAutoencoder
from dgmbench.models.variational._negative_phase import NegativePhase

REQUIRES = VariationalBound
METRICS = {
    "milliseconds_per_step": Metric("milliseconds", "score", "lower", "median time of a training step"),
    "sampler_share": Metric("ratio", "score", "neither", "time of the negative phase's chains over that of a step"),
    "step_rate_share": Metric("ratio", "score", "higher", "a step's share of the machine's rate"),
    "examples_per_second": Metric("examples/second", "score", "higher", "examples evaluated with k draws a second"),
    "evaluation_rate_share": Metric("ratio", "score", "higher", "the evaluation's share of the machine's rate"),
}
# Numbers that come from a clock: equal inputs do not give them again.
CLOCK_READINGS = frozenset(METRICS)
SMOKE: dict = {"steps": 2, "turns": 2, "k": 20}
_CALLS = 3  # of the sampler and of the square product in a turn, whose median is the turn's reading


class Settings(EstimatorSettings):
    turns: int = Field(9, ge=2, description="Turns of all programs, after one that warms up.")
    steps: int = Field(6, ge=2, description="Training steps that are timed in a turn, after two that warm up.")
    k: int = Field(4000, ge=1, description="Draws for each example that is evaluated.")
    evaluated: int = Field(20, ge=1, description="Examples in a reading of the evaluation.")
    rows_per_call: int = Field(1000, ge=1, description="The most draws at once in the evaluation.")


def scorings(settings: Settings, examples: int) -> float:
    return (settings.turns + 1.0) * (600.0 * settings.steps + settings.evaluated * settings.k)


def estimate(model: VariationalBound, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Times of the model's training on the training split, and of its evaluation on `split`.

    `estimator_se` is that of medians over turns.

    Raises:
        CannotBeDone: the model is no discrete variational autoencoder.
    """
    model = discrete(model)
    generator, spec, device = bench.generator, model.spec, bench.device.type
    x = data.splits[settings.split].take(slice(0, settings.evaluated), generator).to(bench.device)
    drawing = importance_weighted.Settings(k=settings.k, rows_per_call=settings.rows_per_call)
    negative = NegativePhase(model.machine, spec.negative_phase, spec.chains, spec.sweeps, generator)
    square, square_operations = square_product(generator)
    weighted = Normalised(model, 0.0)

    def evaluate() -> None:
        for one in x.split(max(1, drawing.rows_per_call // drawing.k)):
            importance_weighted.log_weights_in_pieces(weighted, one, drawing, generator)

    programs = {
        "step": lambda: time_steps(model, data, settings.steps, 0, bench.device).seconds,
        "sampler": clocked(lambda: negative.samples(model.machine, generator), _CALLS, device),
        "evaluation": clocked(evaluate, 1, device),
        "square": clocked(square, _CALLS, device),
    }
    with bench.progress.task("time", total=settings.turns + 1, unit="turn") as task:
        found = turns(programs, settings.turns, task)
    step, square_times = found["step"], found["square"]
    batch = min(spec.batch_size, len(data.train))
    once, each = multiplications(model)
    sides = model.machine.weights.numel()
    of_step = 3 * 2.0 * batch * (once + spec.samples_k * each) + 2 * spec.sweeps * spec.chains * 2.0 * sides
    calls = math.ceil(settings.k / settings.rows_per_call)  # x is encoded anew in each
    of_evaluation = 2.0 * len(x) * (calls * once + settings.k * each)
    gigaflops = square_operations / square_times.seconds / 1e9
    common = {"threads": torch.get_num_threads(), "gemm_gigaflops": gigaflops, "device": str(bench.device)}
    of_steps = {"steps": settings.steps, "batch_size": batch, "samples_k": spec.samples_k, **common}
    of_steps |= {"chains": spec.chains, "sweeps": spec.sweeps}
    of_evaluations = {"k": settings.k, "evaluated": len(x), **common}
    step_scale, evaluation_scale = of_step / square_operations, of_evaluation / square_operations
    shares = paired_ratio("sampler_share", found["sampler"], step, of_steps)
    numbers = Estimates(
        [
            time_of("milliseconds_per_step", step, 1e-3, of_steps),
            shares,
            paired_ratio("step_rate_share", square_times, step, of_steps, step_scale),
            rate_of("examples_per_second", found["evaluation"], len(x), of_evaluations),
            paired_ratio("evaluation_rate_share", square_times, found["evaluation"], of_evaluations, evaluation_scale),
        ]
    )
    mark_busy(numbers.numbers, _too_large(shares.value) or busy(square_times))
    return numbers


def _too_large(sampler_share: float) -> str | None:
    """Why the sampler's readings cannot be a part of the step's, if they cannot."""
    if sampler_share > LARGEST_SHARE:
        return f"the sampler alone took {sampler_share:.2f} of a step's time: time it on an idle machine"
    return None


def multiplications(model: DiscreteAutoencoder) -> tuple[float, float]:
    """Of a forward pass of one example: those that are done once, and those that are done for every draw."""
    once, each = 0.0, 0.0
    for name, weight in model.networks.parameters.items():
        if not name.endswith("weight"):
            continue
        net, layer, _ = name.split(".")
        if net == "encoder0":
            once += weight.numel()
        elif net != "decoder" and layer == "0":
            # x is multiplied once, whatever is drawn beside it.
            once += weight.shape[0] * model.dimension
            each += weight.shape[0] * (weight.shape[1] - model.dimension)
        else:
            each += weight.numel()
    return once, each
