"""How restricted Boltzmann machines are trained, whatever their visible units are: the gradient by Gibbs chains.

    d/dtheta mean_n log p(v_n) = mean_n d log p*(v_n)/dtheta - E_p[d log p*(v)/dtheta]

with the second term, the model's, from the ends of Markov chains. `cd`: k sweeps from each example of the minibatch.
`cd_growing`: k grows by one after every `grow_every` epochs. `pcd`: chains that are carried from update to update.

    velocity <- momentum velocity + gradient of (log-likelihood - decay/2 |W|^2 - cost sum_j CE(t, q_j))
    CE(t, q) = -t log q - (1 - t) log(1 - q),    q_j = mean_n p_nj,  p_nj = p(h_j = 1 given v_n) = sigmoid(x_nj)
    d CE(t, q_j)/dx_nj = (q_j - t) / (q_j (1 - q_j)) p_nj (1 - p_nj) / N

References: Hinton, "Training products of experts by minimizing contrastive divergence", Neural Computation 14, 2002;
Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood gradient", ICML 2008; growing
k: Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008; sparsity: Lee, Ekanadham
and Ng, "Sparse deep belief net model for visual area V2", NIPS 2007, its penalty as the cross-entropy of Hinton, "A
practical guide to training restricted Boltzmann machines", 2010, section 11, of the minibatch and without his running
average, so that the gradient is exact.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.base import ModelSpec
from dgmbench.training.session import Session

Velocity = dict[str, Tensor]  # name of a parameter -> the direction that it moves in

_MONITORED = 500  # examples of the training and of the validation split whose free energies are compared
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


class Machine(Protocol):
    """What `train` asks of a machine; its tensors are changed in place."""

    spec: TrainingSpec
    dimension: int

    def parameters(self) -> dict[str, Tensor]: ...
    def first_chains(self, n: int, generator: torch.Generator) -> Tensor: ...
    def hidden_input(self, visible: Tensor) -> Tensor: ...
    def gibbs(self, hidden_mean: Tensor, sweeps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...
    def log_unnormalised(self, x: Tensor) -> Tensor: ...
    def accumulate(self, velocity: Velocity, keep: float, visible: Tensor, slope: Tensor, sign: Tensor) -> None: ...
    def monitors(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]: ...


def train(
    machine: Machine, data: Dataset, session: Session, transform: Callable[[Tensor], Tensor] = lambda x: x
) -> None:
    """Stochastic ascent of the likelihood of the transformed training data.

    The persistent chains that an update uses were moved under the parameters before it, so that one product with the
    weights serves both the data's and the chains' hidden units. The history holds `hidden_activity` of every step, the
    mean of p(h = 1) over the minibatch, and of every epoch's end `free_energy_gap`, mean F(data) - mean F(chains);
    `validation_free_energy_gap`, mean F(validation) - mean F(training examples), which rises with overfitting;
    `change_rate`, the share of hidden units that the chains' next sweep is expected to flip; and the machine's own
    `monitors`. Free energies are in nats.
    """
    spec, generator, persistent = machine.spec, session.generator, machine.spec.training == "pcd"
    batch = min(spec.batch_size, len(data.train))
    batches = len(data.train) // batch
    total = spec.epochs * batches
    order = torch.zeros(len(data.train), dtype=torch.int64, device=session.device)
    chains = machine.first_chains(spec.chains if persistent else batch, generator)
    parameters = machine.parameters()
    velocity = {name: torch.zeros_like(value) for name, value in parameters.items()}
    session.track(parameters=parameters, velocity=velocity, other={"chains": chains, "order": order})

    visible = torch.cat([torch.empty(batch, machine.dimension, device=session.device), chains])
    # A product with `sign` is a mean over the data less a mean over the chains.
    sign = torch.full((len(visible),), -1 / len(chains), device=session.device)
    sign[:batch] = 1 / batch

    def take(split: Split, rows: Tensor | slice) -> Tensor:
        return transform(split.take(rows, generator).to(session.device))

    for step in session.steps(total):
        epoch, place = divmod(step, batches)
        if place == 0:
            order.copy_(torch.randperm(len(order), generator=generator, device=session.device))
        visible[:batch] = take(data.train, order[place * batch : (place + 1) * batch])
        sweeps = sweeps_at(spec, epoch)
        if persistent:
            mean = machine.hidden_input(visible).sigmoid_()
            moved, hidden = machine.gibbs(mean[batch:], sweeps, generator)
        else:
            of_data = machine.hidden_input(visible[:batch]).sigmoid_()
            moved, hidden = machine.gibbs(of_data, sweeps, generator)
            visible[batch:] = moved
            mean = torch.cat([of_data, machine.hidden_input(moved).sigmoid_()])

        slope = mean * sign[:, None]
        if spec.sparsity_cost:
            slope[:batch] -= spec.sparsity_cost * sparsity_slope(mean[:batch], spec.sparsity_target)
        machine.accumulate(velocity, momentum_at(spec, step, total), visible, slope, sign)
        if spec.weight_decay:
            velocity["weights"].add_(parameters["weights"], alpha=-spec.weight_decay)
        for name, direction in velocity.items():
            parameters[name].add_(direction, alpha=spec.learning_rate * (1 - step / total))
        session.record(hidden_activity=mean[:batch].mean())
        visible[batch:] = chains.copy_(moved)
        if place == batches - 1:
            found = _energies_and_changes(machine, visible, batch, hidden)
            if "validation" in data.splits:
                some = take(data.validation, slice(0, _MONITORED))
                as_many = take(data.train, order[: len(some)])
                found["validation_free_energy_gap"] = _mean_free_energy(machine, some) - _mean_free_energy(
                    machine, as_many
                )
            session.record(**found, **machine.monitors(visible[:batch], generator))


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


def _energies_and_changes(machine: Machine, visible: Tensor, batch: int, hidden: Tensor) -> dict[str, Tensor]:
    """Of the last minibatch and the moved chains below it, under the parameters of now."""
    again = machine.hidden_input(visible[batch:]).sigmoid_()
    return {
        "free_energy_gap": _mean_free_energy(machine, visible[:batch]) - _mean_free_energy(machine, visible[batch:]),
        "change_rate": (hidden - again).abs_().mean(),
    }


def _mean_free_energy(machine: Machine, x: Tensor) -> Tensor:
    return -machine.log_unnormalised(x).mean()
