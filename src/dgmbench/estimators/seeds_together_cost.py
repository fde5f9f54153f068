"""Several seeds of a discrete variational autoencoder trained at once, against one after the other.

    together_speedup = seconds of training every seed after the other / seconds of training them all at once

Each seed has its own networks, chains and generator. One after the other, each has all threads of the machine; at once,
each has a thread of its own (on a GPU, a stream), and the arithmetic within it so many as there are for each seed, at
least one. What is timed are updates alone, after two that warm up: from the first update's beginning, which at once
waits for every seed, to the last one's end. Both ways are timed in turn, and the ratio is the median of the turns'
ratios.

Clock readings are not reproducible bits. Equal products take equal times: where a quarter of the square products that
are timed in turn with both took more than 1.3 times their median, the readings count as not converged.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, Table 1, whose numbers are means over five seeds; no time is published there.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from threading import Barrier

import torch
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.estimators._discrete_timing import WARM_UP, discrete
from dgmbench.estimators._timing import Clocked, busy, clocked, mark_busy, paired_ratio, square_product, time_of, turns
from dgmbench.estimators.base import Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import VariationalBound
from dgmbench.models.variational._discrete import DiscreteAutoencoder

REQUIRES = VariationalBound
METRICS = {
    "together_speedup": Metric("ratio", "score", "higher", "seeds one after the other over seeds at once"),
    "seconds_apart": Metric(
        "seconds", "score", "neither", "median time of the seeds' updates, one seed after the other"
    ),
    "seconds_together": Metric("seconds", "score", "neither", "median time of the seeds' updates, all at once"),
}
# Numbers that come from a clock: equal inputs do not give them again.
CLOCK_READINGS = frozenset(METRICS)
SMOKE: dict = {"steps": 2, "turns": 2, "seeds": 2}


class Settings(EstimatorSettings):
    turns: int = Field(5, ge=2, description="Turns of both ways, after one that warms up.")
    steps: int = Field(20, ge=1, description="Training steps of each seed that are timed, after two that warm up.")
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
    seeds, threads = range(settings.seeds), torch.get_num_threads()

    def apart() -> float:
        torch.set_num_threads(threads)
        return sum(ended - began for began, ended in (one(seed, Barrier(1)) for seed in seeds))

    def together() -> float:
        barrier = Barrier(settings.seeds)
        with ThreadPoolExecutor(settings.seeds, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            clocks = list(pool.map(lambda seed: one(seed, barrier), seeds))
        return max(ended for _, ended in clocks) - min(began for began, _ in clocks)

    def one(seed: int, barrier: Barrier) -> tuple[float, float]:
        return time_updates(model, data, settings.steps, seed, bench.device, barrier)

    share = max(1, threads // settings.seeds)
    square, square_operations = square_product(bench.generator)
    programs = {"apart": apart, "together": together, "square": clocked(square, 3, bench.device.type)}
    with bench.progress.task("time", total=settings.turns + 1, unit="turn") as task:
        try:
            found = turns(programs, settings.turns, task)
        finally:
            torch.set_num_threads(threads)
    evidence = {"seeds": settings.seeds, "steps": settings.steps, "threads": threads, "threads_of_each_at_once": share}
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


class _Waiting(Clocked):
    """Begins the steps after those that warm up when all who share the barrier do, and reads the clock then."""

    def __init__(self, generator: torch.Generator, most: int, barrier: Barrier):
        super().__init__(generator, most=most)
        self._barrier = barrier

    def steps(self, total: int, unit: str = "step") -> Iterator[int]:
        for step in super().steps(total, unit):
            if step == WARM_UP:
                self._barrier.wait()
                self.clock[-1] = time.perf_counter()
            yield step


def time_updates(
    model: DiscreteAutoencoder, data: Dataset, steps: int, seed: int, device: torch.device, barrier: Barrier
) -> tuple[float, float]:
    """When the timed updates of a new model of the same spec began and when they ended, seconds of one clock.

    They are the first of a training so long that neither schedules nor the validation bound begin in them.
    """
    spec = model.spec.model_copy(update={"iterations": 1_000_000_000, "validations": 1})
    session = _Waiting(torch.Generator(device).manual_seed(seed), steps + WARM_UP, barrier)
    try:
        with torch.cuda.stream(torch.cuda.Stream()) if device.type == "cuda" else nullcontext():
            type(model)(spec, data.dimension).fit(data, session)
            if device.type == "cuda":
                torch.cuda.synchronize()
                session.clock[-1] = time.perf_counter()
    except BaseException:
        barrier.abort()  # those that wait stop too
        raise
    return session.clock[WARM_UP], session.clock[-1]
