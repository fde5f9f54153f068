"""Clock readings of restricted Boltzmann machines: epochs of ours and of scikit-learn's, sweeps, temperatures.

    h ~ Bernoulli(sigmoid(b + v W)),  v ~ Bernoulli(sigmoid(a + h W'))             a sweep: two products, n x d x m each

The products alone, the random bits alone and a large square product alone are what the others are measured by.

Reference: Smolensky, "Information processing in dynamical systems", 1986.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.models.base import AnnealedPath
from dgmbench.models.boltzmann import rbm
from dgmbench.models.boltzmann._binary import Draws, block_gibbs
from dgmbench.training.session import Session

# Standard error of a median over that of a mean, of many normal readings.
_MEDIAN = math.sqrt(math.pi / 2)
_SQUARE = 1024  # side of the square product that the machine's rate is read from


@dataclass(frozen=True)
class Timing:
    """Seconds of every reading (t,), what came before them having warmed up."""

    all_seconds: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return float(np.median(self.all_seconds))

    @property
    def standard_error(self) -> float | None:
        """Of the median, as if readings were normal; None where there is only one."""
        if len(self.all_seconds) < 2:
            return None
        return _MEDIAN * float(np.std(self.all_seconds, ddof=1)) / math.sqrt(len(self.all_seconds))


def readings(programs: dict[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """The programs in turn, `repeats` times after a first time that is not counted.

    What else the machine does meanwhile falls on all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in range(repeats + 1):
        for name, program in programs.items():
            began = time.perf_counter()
            program()
            if repeat:
                seconds[name].append(time.perf_counter() - began)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


class _Clocked(Session):
    """A session that reads the clock where every epoch begins, and where the last one ends."""

    def __init__(self, generator: torch.Generator, steps_of_an_epoch: int):
        super().__init__(generator)
        self.clock: list[float] = []
        self._every = steps_of_an_epoch

    def steps(self, total: int, unit: str = "step") -> Iterator[int]:
        for step in super().steps(total, unit):
            if step % self._every == 0:
                self.clock.append(time.perf_counter())
            yield step
        self.clock.append(time.perf_counter())


def time_epochs(data: Dataset, spec: rbm.Spec, generator: torch.Generator) -> Timing:
    """Epochs of ours after the first, with shuffling and monitors; the number of them is spec.epochs - 1."""
    session = _Clocked(generator, len(data.train) // spec.batch_size)
    rbm.Model(spec, data.dimension).fit(data, session)
    return Timing(tuple(np.diff(session.clock)[1:].tolist()))


def time_peer_epochs(data: Dataset, spec: rbm.Spec, generator: torch.Generator) -> Timing:
    """Epochs of `sklearn.neural_network.BernoulliRBM` after the first, as many chains as examples in a minibatch.

    Raises:
        CannotBeDone: a scikit-learn that does not call for each minibatch what is timed here.
    """
    from sklearn.neural_network import BernoulliRBM
    from threadpoolctl import threadpool_limits

    clock: list[float] = []

    class Clocked(BernoulliRBM):
        def _fit(self, v_pos, rng):
            clock.append(time.perf_counter())
            return super()._fit(v_pos, rng)

    batches = len(data.train) // spec.batch_size
    x = data.train.take(slice(0, batches * spec.batch_size), generator).numpy()
    peer = Clocked(
        spec.hidden, batch_size=spec.batch_size, learning_rate=spec.learning_rate, n_iter=spec.epochs, random_state=0
    )
    with threadpool_limits(torch.get_num_threads()):
        peer.fit(x)
    clock.append(time.perf_counter())
    # The clock hangs on a private method: readings that it does not give must not become numbers.
    if len(clock) != spec.epochs * batches + 1 or peer.components_.dtype != np.float32:
        raise CannotBeDone(
            f"this scikit-learn updated {len(clock) - 1} times in {peer.components_.dtype}, not "
            f"{spec.epochs * batches} times in float32: install the version that constraints.txt names."
        )
    return Timing(tuple(np.diff(clock[::batches])[1:].tolist()))


def gibbs_programs(chains: int, units: int, sweeps: int, generator: torch.Generator) -> dict[str, Callable[[], object]]:
    """`gibbs`, its `products` alone and its random `bits` alone: `units` visible and as many hidden ones."""
    weights = 0.1 * torch.randn(units, units, generator=generator)
    visible_bias, hidden_bias = torch.randn(2, units, generator=generator)
    mean = torch.rand(chains, units, generator=generator)
    state = (mean < 0.5).float()
    out = torch.empty(chains, units)

    def products() -> None:
        for _ in range(sweeps):
            torch.addmm(visible_bias, state, weights.T, out=out)
            torch.addmm(hidden_bias, state, weights, out=out)

    def bits() -> None:
        draws = Draws(generator)
        for _ in range(2 * sweeps):
            draws.random_integers(chains * units)

    return {
        "gibbs": lambda: block_gibbs(mean, weights, visible_bias, hidden_bias, sweeps, generator),
        "products": products,
        "bits": bits,
    }


def annealing(path: AnnealedPath, temperatures: int, chains: int, generator: torch.Generator) -> Callable[[], Tensor]:
    """Importance weights of `chains` chains through so many evenly spaced inverse temperatures."""
    betas = np.linspace(0.0, 1.0, temperatures).tolist()

    def program() -> Tensor:
        state = path.sample_base(chains, generator)
        log_weights = torch.zeros(chains, dtype=torch.float64)
        for before, after in itertools.pairwise(betas):
            log_weights += path.log_ratio(state, before, after)
            state = path.step(state, after, generator)
        return log_weights

    return program


def square_product(generator: torch.Generator) -> tuple[Callable[[], Tensor], float]:
    """A large float32 product, and how many floating-point operations it takes."""
    a, b = torch.randn(2, _SQUARE, _SQUARE, generator=generator)
    out = torch.empty(_SQUARE, _SQUARE)
    return lambda: torch.mm(a, b, out=out), 2.0 * _SQUARE**3
