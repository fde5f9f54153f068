"""Clock readings of restricted Boltzmann machines: epochs, ours and scikit-learn's, sweeps, temperatures, exact log Z.

    h ~ Bernoulli(sigmoid(b + v W)),  v ~ Bernoulli(sigmoid(a + h W'))             a sweep: two products, n x d x m each

The products alone and the random bits alone are what sweeps are measured by.

Reference: Smolensky, "Information processing in dynamical systems", 1986.
"""

import itertools
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._timing import Clocked
from dgmbench.estimators.enumeration import log_partition
from dgmbench.models.base import AnnealedPath
from dgmbench.models.boltzmann import rbm
from dgmbench.models.boltzmann._binary import Draws, block_gibbs
from dgmbench.models.boltzmann._bipartite import Bipartite


def time_epoch(data: Dataset, spec: rbm.Spec, generator: torch.Generator) -> float:
    """Seconds of the last epoch of ours from new weights, with shuffling and monitors; the others warm up."""
    session = Clocked(generator, len(data.train) // spec.batch_size)
    rbm.Model(spec, data.dimension).fit(data, session)
    return session.clock[-1] - session.clock[-2]


def time_peer_epoch(data: Dataset, spec: rbm.Spec, generator: torch.Generator) -> float:
    """Seconds of the last epoch of `sklearn.neural_network.BernoulliRBM`, as many chains as examples in a minibatch.

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
    return clock[-1] - clock[-1 - batches]


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


def enumeration(visible: int, hidden: int, generator: torch.Generator) -> Callable[[], float]:
    """Exact log Z of a machine with random weights, by all states of its hidden units."""
    weights = 0.1 * torch.randn(visible, hidden, generator=generator)
    machine = Bipartite(weights, torch.randn(visible, generator=generator), torch.randn(hidden, generator=generator))
    return lambda: log_partition(machine.enumeration())
