"""How restricted Boltzmann machines are trained, alone or as a layer of a stack: the gradient by Gibbs chains.

    d/dtheta mean_n log p(v_n) = mean_n d log p*(v_n)/dtheta - E_p[d log p*(v)/dtheta]

with the second term, the model's, from the ends of Markov chains. `cd`: k sweeps from each example of the minibatch.
`cd_growing`: k grows by one after every `grow_every` epochs. `pcd`: chains that are carried from update to update.

    velocity <- momentum velocity + gradient of (log-likelihood - decay/2 |W|^2 - cost sum_j CE(t, q_j))
    CE(t, q) = -t log q - (1 - t) log(1 - q),    q_j = mean_n p_nj,  p_nj = p(h_j = 1 given v_n) = sigmoid(x_nj)
    d CE(t, q_j)/dx_nj = (q_j - t) / (q_j (1 - q_j)) p_nj (1 - p_nj) / N

`centred` machines of binary units move along the gradient in other coordinates, with running means mu of v and lambda
of p(h = 1 given v) over the data: E = -(v - mu).a' - (h - lambda).b' - (v - mu) W (h - lambda). The machine is the same
one, the direction is uphill as well, and it does not depend on which value of a unit is called 1. In the machine's own
coordinates it is, with V the velocity of the ordinary gradient,

    W: D = V_W - V_a lambda' - mu V_b',    a: V_a - D lambda,    b: V_b - D' mu

References: Hinton, "Training products of experts by minimizing contrastive divergence", Neural Computation 14, 2002;
Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood gradient", ICML 2008; growing
k: Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008; sparsity: Lee, Ekanadham
and Ng, "Sparse deep belief net model for visual area V2", NIPS 2007, its penalty as the cross-entropy of Hinton, "A
practical guide to training restricted Boltzmann machines", 2010, section 11, of the minibatch and without his running
average, so that the gradient is exact; centring: Melchior, Fischer and Wiskott, "How to center deep Boltzmann
machines", Journal of Machine Learning Research 17, 2016.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.base import ModelSpec
from dgmbench.training.session import Session

Velocity = dict[str, Tensor]  # name of a parameter -> the direction that it moves in
Centres = dict[str, Tensor]  # visible (d,), hidden (m,): running means over the data

_MONITORED = 500  # examples of the training and of the validation split whose free energies are compared
_CENTRING = 0.01  # share of a minibatch's means in the running ones
_LEAST_VARIANCE = 1e-6  # of q_j: below it a unit counts as never or always on, and CE's slope is not followed further


class TrainingSpec(ModelSpec):
    hidden: int = Field(500, ge=1, description="Number of binary hidden units.")
    epochs: int = Field(200, ge=1, description="Passes over the training data.")
    training: Literal["pcd", "cd", "cd_growing"] = Field(
        "pcd",
        description="pcd: persistent chains; cd: gibbs_steps sweeps from each example; cd_growing: one sweep more "
        "after every grow_every epochs.",
    )
    batch_size: int = Field(100, ge=1, description="Examples in a minibatch; the last, smaller one is left out.")
    learning_rate: float = Field(0.05, gt=0, description="Initial step size; it falls linearly to zero.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Share of the last update's direction that is kept.")
    momentum_end: float | None = Field(
        None, ge=0, lt=1, description="Momentum of the last update, approached linearly; null for no change."
    )
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty (decay / 2) |W|^2 on the weights, not on biases.")
    sparsity_target: float = Field(0.1, gt=0, lt=1, description="Mean activity t that hidden units are drawn to.")
    sparsity_cost: float = Field(
        0.0, ge=0, description="Weight of the cross-entropy between t and each unit's mean activity; 0 for none."
    )
    chains: int = Field(100, ge=1, description="Persistent Markov chains (pcd).")
    gibbs_steps: int = Field(1, ge=1, description="Sweeps of every chain between two updates; k of CD-k.")
    grow_every: int = Field(20, ge=1, description="cd_growing: epochs after which k grows by one.")
    weight_sd: float = Field(0.01, ge=0, description="Standard deviation of the initial weights.")
    sample_sweeps: int = Field(1000, ge=1, description="Gibbs sweeps from the base rates before a sample is taken.")


class BinarySpec(TrainingSpec):
    centred: bool = Field(
        False,
        description="Take the gradient with respect to the couplings of units less their mean activities: the same "
        "model, and a training that depends less on how often units are on.",
    )


class Updated(Protocol):
    """What `update` asks of a machine; its tensors are changed in place. Parameters come as weights, visible biases,
    hidden biases, and others where there are some."""

    def parameters(self) -> dict[str, Tensor]: ...
    def hidden_input(self, visible: Tensor) -> Tensor: ...
    def gibbs(self, hidden_mean: Tensor, sweeps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...
    def log_unnormalised(self, x: Tensor) -> Tensor: ...
    def accumulate(self, velocity: Velocity, keep: float, visible: Tensor, slope: Tensor, sign: Tensor) -> None: ...


class Machine(Updated, Protocol):
    """What `train` asks of a machine beyond that."""

    spec: TrainingSpec
    dimension: int

    def first_chains(self, n: int, generator: torch.Generator) -> Tensor: ...
    def monitors(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Rule:
    """What one update is made with."""

    sweeps: int
    rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    sparsity_target: float = 0.1
    sparsity_cost: float = 0.0
    centring: float = 0.0  # share of the minibatch's means in the centres; 0 where nothing is centred


@dataclass(frozen=True)
class Moved:
    """After an update: mean p(h = 1) of its data (), where its chains ended (c, d), and the h (c, m) that led there."""

    activity: Tensor
    visible: Tensor
    hidden: Tensor


def update(
    machine: Updated,
    velocity: Velocity,
    data: Tensor,
    chains: Tensor | None,
    rule: Rule,
    generator: torch.Generator,
    centres: Centres | None = None,
) -> Moved:
    """One update of the machine and of its velocity, and of `centres` where they are used, in place, from (n, d).

    Persistent `chains` (c, d) are moved on, in place, under the parameters before the update, which uses where they
    were: one product with the weights serves both the data's and the chains' hidden units. Without them chains start at
    the data, and the update uses where they end.
    """
    n = len(data)
    if chains is None:
        of_data = machine.hidden_input(data).sigmoid_()
        moved, hidden = machine.gibbs(of_data, rule.sweeps, generator)
        visible = torch.cat([data, moved])
        mean = torch.cat([of_data, machine.hidden_input(moved).sigmoid_()])
    else:
        visible = torch.cat([data, chains])
        mean = machine.hidden_input(visible).sigmoid_()
        moved, hidden = machine.gibbs(mean[n:], rule.sweeps, generator)
        chains.copy_(moved)
    # A product with `sign` is a mean over the data less a mean over the chains.
    sign = visible.new_full((len(visible),), -1 / len(moved))
    sign[:n] = 1 / n
    slope = mean * sign[:, None]
    if rule.sparsity_cost:
        slope[:n] -= rule.sparsity_cost * sparsity_slope(mean[:n], rule.sparsity_target)
    parameters = machine.parameters()
    machine.accumulate(velocity, rule.momentum, visible, slope, sign)
    if rule.weight_decay:
        velocity["weights"].add_(parameters["weights"], alpha=-rule.weight_decay)
    directions = velocity
    if rule.centring:
        for centre, now in zip(centres.values(), (data.mean(0), mean[:n].mean(0)), strict=True):
            centre.lerp_(now, rule.centring)
        directions = centred(velocity, *centres.values())
    for name, direction in directions.items():
        parameters[name].add_(direction, alpha=rule.rate)
    return Moved(mean[:n].mean(), moved, hidden)


def centred(velocity: Velocity, visible: Tensor, hidden: Tensor) -> Velocity:
    """The direction in the machine's own parameters that `velocity` is in those of units less (d,) and (m,) centres."""
    (w, of_weights), (a, of_visible), (b, of_hidden) = velocity.items()
    found = (of_weights - torch.outer(of_visible, hidden)).addr_(visible, of_hidden, alpha=-1)
    return {w: found, a: of_visible - found @ hidden, b: of_hidden - visible @ found}


def centres_of(parameters: Velocity) -> Centres:
    """Room for the running means of visible and hidden units; the first update fills it."""
    _, visible, hidden = list(parameters.values())[:3]
    return {"visible": torch.zeros_like(visible), "hidden": torch.zeros_like(hidden)}


def train(
    machine: Machine,
    data: Dataset,
    session: Session,
    transform: Callable[[Tensor], Tensor] = lambda x: x,
    is_centred: bool = False,
) -> None:
    """Stochastic ascent of the likelihood of the transformed training data, by `update`.

    The history holds `hidden_activity` of every step, the mean of p(h = 1) over the minibatch, and of every epoch's end
    what `energies_and_changes` gives; `validation_free_energy_gap`, mean F(validation) - mean F(training examples),
    which rises with overfitting; and the machine's own `monitors`. Free energies are in nats.
    """
    spec, generator, persistent = machine.spec, session.generator, machine.spec.training == "pcd"
    batch = min(spec.batch_size, len(data.train))
    batches = len(data.train) // batch
    total = spec.epochs * batches
    order = torch.zeros(len(data.train), dtype=torch.int64, device=session.device)
    chains = machine.first_chains(spec.chains if persistent else 0, generator)
    parameters = machine.parameters()
    velocity = {name: torch.zeros_like(value) for name, value in parameters.items()}
    centres = centres_of(parameters)
    session.track(parameters=parameters, velocity=velocity, centres=centres, other={"chains": chains, "order": order})

    def take(split: Split, rows: Tensor | slice) -> Tensor:
        return transform(split.take(rows, generator).to(session.device))

    for step in session.steps(total):
        place = step % batches
        if place == 0:
            order.copy_(torch.randperm(len(order), generator=generator, device=session.device))
        x = take(data.train, order[place * batch : (place + 1) * batch])
        rule = rule_at(spec, step, total, batches, is_centred)
        moved = update(machine, velocity, x, chains if persistent else None, rule, generator, centres)
        session.record(hidden_activity=moved.activity)
        if place == batches - 1:
            found = energies_and_changes(machine, x, moved)
            if "validation" in data.splits:
                some = take(data.validation, slice(0, _MONITORED))
                as_many = take(data.train, order[: len(some)])
                gap = _mean_free_energy(machine, some) - _mean_free_energy(machine, as_many)
                found["validation_free_energy_gap"] = gap
            session.record(**found, **machine.monitors(x, generator))


def energies_and_changes(machine: Updated, data: Tensor, moved: Moved) -> dict[str, Tensor]:
    """Under the parameters of now: `free_energy_gap`, mean F(data) - mean F(chains) in nats, and `change_rate`, the
    share of hidden units that the chains' next sweep is expected to flip."""
    again = machine.hidden_input(moved.visible).sigmoid_()
    return {
        "free_energy_gap": _mean_free_energy(machine, data) - _mean_free_energy(machine, moved.visible),
        "change_rate": (moved.hidden - again).abs_().mean(),
    }


def rule_at(spec: TrainingSpec, step: int, total: int, batches: int, is_centred: bool) -> Rule:
    """Of update `step` among `total`, with so many in an epoch: the step size falls linearly to zero."""
    return Rule(
        sweeps=sweeps_at(spec, step // batches),
        rate=spec.learning_rate * (1 - step / total),
        momentum=momentum_at(spec, step, total),
        weight_decay=spec.weight_decay,
        sparsity_target=spec.sparsity_target,
        sparsity_cost=spec.sparsity_cost,
        centring=(1.0 if step == 0 else _CENTRING) if is_centred else 0.0,
    )


def sweeps_at(spec: TrainingSpec, epoch: int) -> int:
    return spec.gibbs_steps + (epoch // spec.grow_every if spec.training == "cd_growing" else 0)


def momentum_at(spec: TrainingSpec, step: int, total: int) -> float:
    """From `momentum` at the first update to `momentum_end` at the last one."""
    if spec.momentum_end is None:
        return spec.momentum
    return spec.momentum + (spec.momentum_end - spec.momentum) * step / max(1, total - 1)


def sparsity_slope(mean: Tensor, target: float) -> Tensor:
    """d sum_j CE(t, q_j)/dx_nj, where `mean` holds p_nj = sigmoid(x_nj): (n, m) -> (n, m)."""
    activity = mean.mean(0)
    outer = (activity - target) / (activity * (1 - activity)).clamp_(min=_LEAST_VARIANCE)
    return mean * (1 - mean) * (outer / len(mean))


def passes(spec: TrainingSpec) -> float:
    """Products with the weights that an example's share of an epoch costs, times epochs, leading term."""
    sweeps = sum(sweeps_at(spec, epoch) for epoch in range(spec.epochs))
    share = spec.chains / spec.batch_size if spec.training == "pcd" else 1.0
    return 2 * spec.epochs + 2 * share * sweeps


def _mean_free_energy(machine: Machine, x: Tensor) -> Tensor:
    return -machine.log_unnormalised(x).mean()
