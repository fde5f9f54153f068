"""What restricted Boltzmann machines cost: an epoch beside scikit-learn's, Gibbs sweeps, temperatures of annealing.

    speed_ratio         = peer_seconds_per_epoch / seconds_per_epoch: same examples, minibatches, units and threads
    gibbs_over_products = time of sweeps / time of their two matrix products alone
    share of the rate   = (floating-point operations of a program's products / its seconds) / the machine's rate

with the rate, operations a second, of a large square product. What is timed: epochs of persistent contrastive
divergence in float32, from new weights, with as many chains as examples in a minibatch, shuffling and monitors in them;
block Gibbs sweeps of a machine with random weights; importance weights and transitions along the trained machine's
annealed path. Sweeps, their products, their random bits, temperatures and the square product are timed in turn.

Clock readings are not reproducible bits: the same run gives others the next time, and other machines others still. What
else the machine does meanwhile is in them too.

References: Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood gradient", ICML
2008; the peer: Pedregosa et al., "Scikit-learn: machine learning in Python", Journal of Machine Learning Research 12,
2011.
"""

import torch
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._boltzmann_timing import annealing, gibbs_programs, time_epochs, time_peer_epochs
from dgmbench.estimators._timing import ratio_of, readings, share_of, square_product, time_of
from dgmbench.estimators.base import Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Energy
from dgmbench.models.boltzmann import rbm

REQUIRES = Energy
METRICS = {
    "seconds_per_epoch": Metric("seconds", "score", "lower", "median time of an epoch of ours"),
    "peer_seconds_per_epoch": Metric("seconds", "score", "neither", "median time of an epoch of scikit-learn's"),
    "speed_ratio": Metric("ratio", "score", "higher", "the peer's seconds over ours"),
    "epoch_rate_share": Metric("ratio", "score", "higher", "an epoch's share of the machine's rate"),
    "seconds_per_sweep": Metric("seconds", "score", "lower", "median time of a sweep of all chains"),
    "gibbs_over_products": Metric("ratio", "score", "lower", "time of sweeps over that of their products alone"),
    "bits_over_products": Metric(
        "ratio", "score", "neither", "time of the sweeps' random bits over that of the products"
    ),
    "gibbs_rate_share": Metric("ratio", "score", "higher", "the sweeps' share of the machine's rate"),
    "seconds_per_temperature": Metric("seconds", "score", "lower", "median time of a temperature for all chains"),
    "ais_rate_share": Metric("ratio", "score", "higher", "annealing's share of the machine's rate"),
}
# Numbers that come from a clock: equal inputs do not give them again.
CLOCK_READINGS = frozenset(METRICS)
SMOKE: dict = {"epochs": 3, "repeats": 2, "sweeps": 2, "units": 10, "batch_size": 20, "hidden": 5}
_STATE = {"weights", "visible_bias", "hidden_bias", "base_bias"}


class Settings(EstimatorSettings):
    hidden: int = Field(500, ge=1, description="Hidden units of the machines whose epochs are timed.")
    batch_size: int = Field(100, ge=1, description="Examples in a minibatch, and chains, of the epochs that are timed.")
    epochs: int = Field(4, ge=2, description="Epochs of both programs; the first warms up, the others are timed.")
    repeats: int = Field(10, ge=1, description="Readings of sweeps, products, bits and annealing, each.")
    chains: int = Field(1000, ge=1, description="Chains of sweeps and of annealing.")
    sweeps: int = Field(40, ge=1, description="Sweeps in a reading.")
    units: int = Field(200, ge=1, description="Visible units, and as many hidden ones, of the sweeps' machine.")
    temperatures: int = Field(20, ge=2, description="Inverse temperatures in a reading, both ends counted.")


def scorings(settings: Settings, examples: int) -> float:
    # Two programs that train; sweeps and temperatures cost as many chains' scores.
    chains = settings.repeats * settings.chains * (settings.sweeps + 3.0 * settings.temperatures)
    return 12.0 * settings.epochs * examples + chains


def estimate(model: Energy, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Times of the training data's epochs and of the trained machine's path; `split` and `examples` play no part.

    `estimator_se` of a time is that of the median over readings, and None where there is only one.

    Raises:
        CannotBeDone: the model is no machine of binary visible and hidden units; the run is not on the CPU; a
            minibatch larger than the training data.
    """
    state = model.state()
    if set(state) != _STATE:
        raise CannotBeDone(
            "only machines whose state is weights, visible_bias, hidden_bias and base_bias can be timed, and this "
            f"model's state is {', '.join(state) or 'empty'}: evaluate an rbm instead."
        )
    if bench.device.type != "cpu":
        raise CannotBeDone("both programs are timed on the same processor: set device to cpu.")
    if settings.batch_size > len(data.train):
        raise CannotBeDone(
            f"there are {len(data.train):,} training examples, not {settings.batch_size:,}: set batch_size to "
            f"{len(data.train)} or fewer."
        )
    shared = {key: getattr(settings, key) for key in ("hidden", "batch_size", "epochs")}
    spec = rbm.Spec(chains=settings.batch_size, learning_rate=0.01, **shared)
    square, square_operations = square_product(bench.generator)
    with bench.progress.task("time", total=3, unit="program") as task:
        ours = time_epochs(data, spec, bench.generator)
        task.advance(1)
        peer = time_peer_epochs(data, spec, bench.generator)
        task.advance(1)
        programs = gibbs_programs(settings.chains, settings.units, settings.sweeps, bench.generator)
        programs["annealing"] = annealing(
            model.annealed_path(data), settings.temperatures, settings.chains, bench.generator
        )
        found = readings({**programs, "square": square}, settings.repeats)
        task.advance(1)
    rate = square_operations / found["square"].seconds
    d, m = state["weights"].shape
    updates = len(data.train) // settings.batch_size
    # Of an example and of a chain: products for h, for the gradient, and a chain's for its new state.
    of_epoch = updates * settings.batch_size * (2 + 3) * 2.0 * d * settings.hidden
    of_sweeps = 2 * settings.sweeps * settings.chains * 2.0 * settings.units**2
    moves = settings.temperatures - 1
    of_annealing = 2 * moves * settings.chains * 2.0 * d * m
    common = {"threads": torch.get_num_threads(), "gemm_gigaflops": rate / 1e9}
    epochs = {"examples": updates * settings.batch_size, "hidden": settings.hidden, "dimensions": d, **common}
    sweeps = {"chains": settings.chains, "units": settings.units, **common}
    sweeps["chain_sweeps_per_second"] = settings.chains * settings.sweeps / found["gibbs"].seconds
    temperatures = {"chains": settings.chains, "dimensions": d, "hidden": m, **common}
    temperatures["temperatures_per_second"] = moves / found["annealing"].seconds
    return Estimates(
        [
            time_of("seconds_per_epoch", ours, 1, epochs),
            time_of("peer_seconds_per_epoch", peer, 1, epochs),
            ratio_of("speed_ratio", peer, ours, epochs),
            share_of("epoch_rate_share", of_epoch, ours, found["square"], square_operations, epochs),
            time_of("seconds_per_sweep", found["gibbs"], settings.sweeps, sweeps),
            ratio_of("gibbs_over_products", found["gibbs"], found["products"], sweeps),
            ratio_of("bits_over_products", found["bits"], found["products"], sweeps),
            share_of("gibbs_rate_share", of_sweeps, found["gibbs"], found["square"], square_operations, sweeps),
            time_of("seconds_per_temperature", found["annealing"], moves, temperatures),
            share_of(
                "ais_rate_share", of_annealing, found["annealing"], found["square"], square_operations, temperatures
            ),
        ]
    )
