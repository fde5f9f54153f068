"""Several seeds of a discrete variational autoencoder trained at once, against one after the other.

    together_speedup = seconds of training every seed after the other / seconds of training them all at once

Each seed has its own networks, chains and generator, and at once its own thread (on a GPU, its own stream); arithmetic
within a seed is as many-threaded as it is alone. What is timed are the first updates, with the making of the networks
in them: no validation bound, which is measured far more rarely. Both ways are timed in turn, and the ratio is the
median of the turns' ratios.

Clock readings are not reproducible bits. Equal products take equal times: where a quarter of the square products that
are timed in turn with both took more than 1.3 times their median, the readings count as not converged.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, Table 1, whose numbers are means over five seeds; no time is published there.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.estimators._discrete_timing import WARM_UP, discrete, time_steps
from dgmbench.estimators._timing import busy, clocked, mark_busy, paired_ratio, square_product, time_of, turns
from dgmbench.estimators.base import Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import VariationalBound

REQUIRES = VariationalBound
METRICS = {
    "together_speedup": Metric("ratio", "score", "higher", "seeds one after the other over seeds at once"),
    "seconds_apart": Metric("seconds", "score", "neither", "median time of the seeds one after the other"),
    "seconds_together": Metric("seconds", "score", "neither", "median time of the seeds at once"),
}
# Numbers that come from a clock: equal inputs do not give them again.
CLOCK_READINGS = frozenset(METRICS)
SMOKE: dict = {"steps": 2, "turns": 2, "seeds": 2}


class Settings(EstimatorSettings):
    turns: int = Field(5, ge=2, description="Turns of both ways, after one that warms up.")
    steps: int = Field(10, ge=1, description="Training steps of each seed, beside two more.")
    seeds: int = Field(5, ge=2, description="Seeds that are trained at once, and one after the other.")


def scorings(settings: Settings, examples: int) -> float:
    return 600.0 * (settings.turns + 1.0) * (settings.steps + WARM_UP) * 2 * settings.seeds


def estimate(model: VariationalBound, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Times of the model's training on the training split; `split` and `examples` play no part.

    `estimator_se` is that of medians over turns.

    Raises:
        CannotBeDone: the model is no discrete variational autoencoder.
    """
    model = discrete(model)

    def one(seed: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()) if bench.device.type == "cuda" else nullcontext():
            time_steps(model, data, settings.steps, seed, bench.device)

    def of_seeds(at_once: int) -> None:
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(one, range(settings.seeds)))

    square, square_operations = square_product(bench.generator)
    programs = {
        "apart": clocked(lambda: of_seeds(1), 1, bench.device.type),
        "together": clocked(lambda: of_seeds(settings.seeds), 1, bench.device.type),
        "square": clocked(square, 3, bench.device.type),
    }
    with bench.progress.task("time", total=settings.turns + 1, unit="turn") as task:
        found = turns(programs, settings.turns, task)
    evidence = {"seeds": settings.seeds, "steps": settings.steps + WARM_UP, "threads": torch.get_num_threads()}
    evidence |= {"device": str(bench.device), "gemm_gigaflops": square_operations / found["square"].seconds / 1e9}
    numbers = Estimates(
        [
            paired_ratio("together_speedup", found["apart"], found["together"], evidence),
            time_of("seconds_apart", found["apart"], 1, dict(evidence)),
            time_of("seconds_together", found["together"], 1, dict(evidence)),
        ]
    )
    mark_busy(numbers.numbers, busy(found["square"]))
    return numbers
