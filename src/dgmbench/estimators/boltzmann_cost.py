"""What restricted Boltzmann machines cost: an epoch beside scikit-learn's, Gibbs sweeps, temperatures, enumeration.

    speed_ratio         = peer_seconds_per_epoch / seconds_per_epoch: same examples, minibatches, units and threads
    speed_limit         = peer_seconds_per_epoch / seconds of an epoch's five products at the machine's rate
    gibbs_over_products = time of sweeps / time of their two matrix products alone
    share of the rate   = (floating-point operations of a program's products / its seconds) / the machine's rate

with the rate, operations a second, of a large square product. What is timed: epochs of persistent contrastive
divergence in float32, from new weights, with as many chains as examples in a minibatch, shuffling and monitors in them;
block Gibbs sweeps of a machine with random weights; importance weights and transitions along the trained machine's
annealed path; the exact log Z, by all 2^enumerated states, of a machine with that many hidden units and the data's
dimensions, in float64. The two programs that train are timed in turn, an epoch each after one that warms up; so are
sweeps, their products, their random bits and temperatures, each beside the square product; enumeration beside it
alone. A ratio is the median of the turns' ratios.

Clock readings are not reproducible bits: the same run gives others the next time, and other machines others still.
Equal products take equal times: where a quarter of the square products took more than 1.3 times their median, the
machine was busy, and the readings beside them count as not converged.

References: Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood gradient", ICML
2008; the peer: Pedregosa et al., "Scikit-learn: machine learning in Python", Journal of Machine Learning Research 12,
2011.
"""

import torch
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._boltzmann_timing import annealing, enumeration, gibbs_programs, time_epoch, time_peer_epoch
from dgmbench.estimators._timing import (
    Timing,
    busy,
    clocked,
    mark_busy,
    paired_ratio,
    rate_of,
    square_product,
    time_of,
    turns,
)
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Energy
from dgmbench.models.boltzmann import rbm

REQUIRES = Energy
METRICS = {
    "seconds_per_epoch": Metric("seconds", "score", "lower", "median time of an epoch of ours"),
    "peer_seconds_per_epoch": Metric("seconds", "score", "neither", "median time of an epoch of scikit-learn's"),
    "speed_ratio": Metric("ratio", "score", "higher", "the peer's seconds over ours"),
    "speed_limit": Metric(
        "ratio",
        "score",
        "neither",
        "the speed ratio of an epoch that is nothing but its products, at the machine's rate",
    ),
    "epoch_rate_share": Metric("ratio", "score", "higher", "an epoch's share of the machine's rate"),
    "seconds_per_sweep": Metric("seconds", "score", "lower", "median time of a sweep of all chains"),
    "chain_sweeps_per_second": Metric("sweeps/second", "score", "higher", "sweeps of single chains in a second"),
    "gibbs_over_products": Metric("ratio", "score", "lower", "time of sweeps over that of their products alone"),
    "bits_over_products": Metric(
        "ratio", "score", "neither", "time of the sweeps' random bits over that of the products"
    ),
    "gibbs_rate_share": Metric("ratio", "score", "higher", "the sweeps' share of the machine's rate"),
    "seconds_per_temperature": Metric("seconds", "score", "lower", "median time of a temperature for all chains"),
    "temperatures_per_second": Metric(
        "temperatures/second", "score", "higher", "temperatures for all chains in a second"
    ),
    "ais_rate_share": Metric("ratio", "score", "higher", "annealing's share of the machine's rate"),
    "seconds_of_enumeration": Metric("seconds", "score", "lower", "median time of an exact log Z"),
}
# Numbers that come from a clock: equal inputs do not give them again.
CLOCK_READINGS = frozenset(METRICS)
SMOKE: dict = {
    "epochs": 3,
    "repeats": 2,
    "sweeps": 2,
    "units": 10,
    "batch_size": 20,
    "hidden": 5,
    "enumerated": 4,
    "enumerations": 2,
}
_SQUARES = 3  # square products in a turn, whose median is the turn's reading
_STATE = {"weights", "visible_bias", "hidden_bias", "base_bias"}


class Settings(EstimatorSettings):
    hidden: int = Field(500, ge=1, description="Hidden units of the machines whose epochs are timed.")
    batch_size: int = Field(100, ge=1, description="Examples in a minibatch, and chains, of the epochs that are timed.")
    epochs: int = Field(4, ge=2, description="Epochs of each program that are timed, each after one that warms up.")
    repeats: int = Field(10, ge=1, description="Readings of sweeps, products, bits and annealing, each.")
    chains: int = Field(1000, ge=1, description="Chains of sweeps and of annealing.")
    sweeps: int = Field(40, ge=1, description="Sweeps in a reading.")
    units: int = Field(200, ge=1, description="Visible units, and as many hidden ones, of the sweeps' machine.")
    temperatures: int = Field(20, ge=2, description="Inverse temperatures in a reading, both ends counted.")
    enumerated: int = Field(20, ge=1, le=20, description="Hidden units of the machine whose log Z is enumerated.")
    enumerations: int = Field(3, ge=1, description="Readings of enumeration.")


def scorings(settings: Settings, examples: int) -> float:
    # Two programs that train; sweeps and temperatures cost as many chains' scores.
    chains = settings.repeats * settings.chains * (settings.sweeps + 3.0 * settings.temperatures)
    states = (settings.enumerations + 1) * 2.0**settings.enumerated
    return 24.0 * (settings.epochs + 1) * examples + chains + states


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
    spec = rbm.Spec(
        hidden=settings.hidden,
        batch_size=settings.batch_size,
        chains=settings.batch_size,
        epochs=2,
        learning_rate=0.01,
    )
    generator = bench.generator
    square, square_operations = square_product(generator)
    training = {
        "ours": lambda: time_epoch(data, spec, generator),
        "peer": lambda: time_peer_epoch(data, spec, generator),
    }
    sampling = gibbs_programs(settings.chains, settings.units, settings.sweeps, generator)
    path = model.annealed_path(data)
    sampling["annealing"] = annealing(path, settings.temperatures, settings.chains, generator)
    beside = {"square": clocked(square, _SQUARES)}
    all_turns = settings.epochs + settings.repeats + settings.enumerations + 3
    with bench.progress.task("time", total=all_turns, unit="turn") as task:
        epoch = turns(training | beside, settings.epochs, task)
        found = turns({name: clocked(program) for name, program in sampling.items()} | beside, settings.repeats, task)
        exact = {"exact": clocked(enumeration(data.dimension, settings.enumerated, generator))}
        exact = turns(exact | beside, settings.enumerations, task)
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
    temperatures = {"chains": settings.chains, "dimensions": d, "hidden": m, **common}
    states = {"states": 2 ** min(settings.enumerated, d), "dimensions": d, **common}

    def share(metric: str, operations: float, times: dict[str, Timing], name: str, evidence: dict) -> Estimate:
        return paired_ratio(metric, times["square"], times[name], evidence, operations / square_operations)

    of_training = [
        time_of("seconds_per_epoch", epoch["ours"], 1, epochs),
        time_of("peer_seconds_per_epoch", epoch["peer"], 1, epochs),
        paired_ratio("speed_ratio", epoch["peer"], epoch["ours"], epochs),
        paired_ratio("speed_limit", epoch["peer"], epoch["square"], epochs, square_operations / of_epoch),
        share("epoch_rate_share", of_epoch, epoch, "ours", epochs),
    ]
    of_sampling = [
        time_of("seconds_per_sweep", found["gibbs"], settings.sweeps, sweeps),
        rate_of("chain_sweeps_per_second", found["gibbs"], settings.chains * settings.sweeps, sweeps),
        paired_ratio("gibbs_over_products", found["gibbs"], found["products"], sweeps),
        paired_ratio("bits_over_products", found["bits"], found["products"], sweeps),
        share("gibbs_rate_share", of_sweeps, found, "gibbs", sweeps),
        time_of("seconds_per_temperature", found["annealing"], moves, temperatures),
        rate_of("temperatures_per_second", found["annealing"], moves, temperatures),
        share("ais_rate_share", of_annealing, found, "annealing", temperatures),
    ]
    mark_busy(of_training, busy(epoch["square"]))
    mark_busy(of_sampling, busy(found["square"]))
    of_enumeration = [time_of("seconds_of_enumeration", exact["exact"], 1, states)]
    mark_busy(of_enumeration, busy(exact["square"]))
    return Estimates([*of_training, *of_sampling, *of_enumeration])
