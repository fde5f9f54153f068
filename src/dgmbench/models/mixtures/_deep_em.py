"""EM of a Deep GMM: statistics of paths, nodes from the top layer down, re-seeding, several processes.

    sum over the examples of path p of r_np (x, 1)(x, 1)^T   are all that the M-step sees of the data

In a group of processes each holds a shard of the examples: statistics are summed over the group, the nodes of a layer
are dealt out and their new values exchanged. All processes hold the same parameters at every step.

Reference: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, section 3.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgmbench.errors import CannotBeDone
from dgmbench.models.mixtures import _layerwise, _network, _node
from dgmbench.models.mixtures._em import Workspace
from dgmbench.models.mixtures._search import PathSearch, better, moments_of_paths
from dgmbench.training.distributed import Group
from dgmbench.training.session import Session

_CHUNK = 2048
_PROBED = 500
# The E-step's own precision is compared with float64 at every iteration; more than this is refused.
_ROUNDING_NATS = 0.05
_WARM_PASSES, _RANDOM_PASSES = 1, 2


@dataclass(frozen=True)
class Data:
    """Whitened examples: this process's shard of the training data, those of the start, those of validation.

    Attributes:
        rows: (n,) which training examples `train` (n, d) holds; count: how many there are in all.
        log_volume: log |scale| of the whitening, nats; ridge: (d, d), as whitened.
        advice: the ridge to write instead, in the data's units squared.
    """

    train: Tensor
    rows: Tensor
    count: int
    start: Tensor
    validation: Tensor
    log_volume: float
    ridge: Tensor
    advice: float


@dataclass(frozen=True)
class Seen:
    """The examples between two M-steps: z (n, d) and rows (n,), this process's."""

    z: Tensor
    rows: Tensor
    count: int  # of all processes


def start(spec, data: Data, generator: torch.Generator) -> list[Tensor]:
    """Q~ of each layer before the first step, for a start that all processes draw alike."""
    if spec.start == "random":
        return _layerwise.nearby(data.start, spec.components, generator)
    return _layerwise.fitted(data.start, spec.components, spec.start_iterations, spec.start == "scales", generator)


def blank(spec, data: Data) -> dict[str, Any]:
    """What training carries from step to step, before it is restored: parameters of whitened data, in float64."""
    size, options = data.train.shape[1] + 1, {"dtype": torch.float64, "device": data.train.device}
    layers = {f"layer_{j}": torch.zeros(n, size, size, **options) for j, n in enumerate(spec.components)}
    paths = math.prod(spec.components)
    return {**layers, "log_weights": torch.full((paths,), -math.log(paths), **options)}


def fit(spec, data: Data, session: Session, group: Group) -> tuple[list[Tensor], Tensor]:
    """EM: the fitted Q~ of each layer and log pi, (P,), on whitened data."""
    em = blank(spec, data) | {"previous": -math.inf, "stop": False}
    layers = [em[f"layer_{j}"] for j in range(len(spec.components))]
    paths, d = len(em["log_weights"]), data.train.shape[1]
    if spec.assignment == "heuristic":
        em["paths"] = torch.zeros(data.count, dtype=torch.int64, device=data.train.device)
    if spec.minibatch is not None:
        em |= {"averages": torch.zeros(paths, d + 1, d + 1).to(em["log_weights"]), "batches": 0}
    if not session.resumable:
        for nodes, first in zip(layers, start(spec, data, session.generator), strict=True):
            nodes.copy_(first)
        if spec.assignment == "heuristic":
            em["paths"].random_(paths, generator=session.generator)
        if spec.minibatch is not None:
            em["averages"].copy_(implied(layers, em["log_weights"]))
    session.track(em=em)
    workspace = Workspace(paths, d, _CHUNK, data.train.dtype, data.train.device)
    for _ in session.steps(spec.iterations, unit="iteration"):
        if em["stop"]:
            break
        exchanged = group.exchanged
        theta = _network.natural_parameters(layers, em["log_weights"])
        row = {"rounding": _rounding(spec, layers, em["log_weights"], theta, data.start)}
        validation = float(workspace.log_prob(data.validation, theta).mean(dtype=torch.float64))
        objective, measured = _pass(spec, data, layers, em, workspace, session.generator, group)
        name = "log_likelihood" if spec.assignment == "soft" else "best_path_log_likelihood"
        row |= {
            name: objective - data.log_volume,
            "validation_log_likelihood": validation - data.log_volume,
            **measured,
        }
        if group.size > 1:
            data_bytes = data.count * d * data.train.element_size()
            row["exchanged_share"] = (group.exchanged - exchanged) / data_bytes
        session.record(**row)
        # Stopping is noted for the next step to see, so that this one still closes its row of the history.
        em["stop"] = measured["reseeded_nodes"] == 0 and abs(objective - em["previous"]) < spec.tolerance
        em["previous"] = objective
    return layers, em["log_weights"]


def _pass(
    spec,
    data: Data,
    layers: list[Tensor],
    em: dict[str, Any],
    workspace: Workspace,
    generator: torch.Generator,
    group: Group,
) -> tuple[float, dict[str, float]]:
    """Every example once, the parameters moved in place: mean objective along the pass, and what was counted."""
    if spec.minibatch is None:
        batches = [Seen(data.train, data.rows, data.count)]
    else:
        # Every process draws the order of all examples, and sees its own.
        order = torch.randperm(data.count, generator=generator, device=data.train.device)
        first = int(data.rows[0])
        batches = []
        for batch in order.split(spec.minibatch):
            own = batch[(batch >= first) & (batch < first + len(data.rows))]
            batches.append(Seen(data.train[own - first], own, len(batch)))
    total, counted = 0.0, {"reseeded_nodes": 0.0, "solver_evaluations": 0.0}
    for seen in batches:
        theta = _network.natural_parameters(layers, em["log_weights"])
        objective, moments, measured = expectation(spec, seen, theta, em, workspace, generator, group)
        if spec.minibatch is not None:
            em["averages"].lerp_(moments / seen.count, (em["batches"] + 2) ** -spec.decay)
            em["batches"] += 1
            moments = em["averages"] * data.count
        reseeded, evaluations = maximisation(spec, layers, em["log_weights"], moments, data, generator, group)
        if reseeded and spec.minibatch is not None:
            # What is remembered of paths through a split node is what their new parameters imply.
            changed = _paths_through(spec, reseeded)
            em["averages"][changed] = implied(layers, em["log_weights"])[changed]
        total += objective * seen.count
        counted["reseeded_nodes"] += len(reseeded)
        counted["solver_evaluations"] += evaluations
        for name, value in measured.items():
            counted[name] = counted.get(name, 0.0) + value * seen.count / data.count
    return total / data.count, counted


def implied(layers: list[Tensor], log_weights: Tensor) -> Tensor:
    """pi_p E[(x, 1)(x, 1)^T given p] as the parameters say: the product of a path's own map with its transpose."""
    forward = torch.linalg.inv(_network.fold(layers, layers[0].shape[-1], log_weights))
    return log_weights.exp()[:, None, None] * (forward @ forward.mT)


def _paths_through(spec, reseeded: list[tuple[int, int, int]]) -> Tensor:
    """Which paths go through nodes that were split, (P,) bool."""
    through = torch.zeros(spec.components, dtype=torch.bool)
    for j, empty, largest in reseeded:
        through.movedim(j, 0)[[empty, largest]] = True
    return through.flatten()


def expectation(
    spec,
    seen: Seen,
    theta: Tensor,
    em: dict[str, Any],
    workspace: Workspace,
    generator: torch.Generator,
    group: Group,
) -> tuple[float, Tensor, dict[str, float]]:
    """Mean objective in nats of whitened data, moments of every path, and what was counted.

    The heuristic continues from em["paths"], and leaves there the paths that it found.
    """
    d, theta = seen.z.shape[1], theta.to(seen.z.dtype)
    tally = torch.zeros(2, dtype=torch.float64, device=theta.device)
    if spec.assignment == "soft":
        objective, sums = workspace.accumulate(seen.z, theta)
        tally[0] = objective * len(seen.z)
        group.sum(tally, sums)
        return float(tally[0]) / seen.count, _network.second_moments(sums, d), {}
    search = PathSearch(spec.components, theta, d, _CHUNK)
    if spec.assignment == "hard":
        scores, paths = search.every(seen.z)
        measured = {}
    else:
        # Every process draws the random paths of all examples, and takes its own.
        drawn = torch.randint(len(theta), em["paths"].shape, generator=generator, device=theta.device)
        warm = search.ascend(seen.z, em["paths"][seen.rows], _WARM_PASSES)
        random = search.ascend(seen.z, drawn[seen.rows], _RANDOM_PASSES)
        tally[1] = ((random[0] > warm[0]) & (random[1] != warm[1])).sum()
        scores, paths = better(warm, random)
        expected = (_WARM_PASSES + _RANDOM_PASSES) * sum(spec.components)
        assert search.evaluations == expected * len(seen.z)
        measured = {"path_evaluations": expected}
        group.place(em["paths"], seen.rows, paths)
    tally[0] = scores.sum(dtype=torch.float64)
    moments = moments_of_paths(seen.z, paths, len(theta))
    group.sum(tally, moments)
    if spec.assignment == "heuristic":
        measured["switch_rate"] = float(tally[1]) / seen.count
    return float(tally[0]) / seen.count, moments, measured


def maximisation(
    spec,
    layers: list[Tensor],
    log_weights: Tensor,
    moments: Tensor,
    data: Data,
    generator: torch.Generator,
    group: Group,
) -> tuple[list[tuple[int, int, int]], int]:
    """The M-step, in place; returns the nodes split and how often node objectives were evaluated.

    A split is (layer, node without examples, the node that it is now a half of).
    """
    d = data.train.shape[1]
    counts = moments[:, d, d].clone()
    moments[:, :d, :d] += counts[:, None, None] * data.ridge
    reseeded, evaluations = [], torch.zeros(1, dtype=torch.float64, device=moments.device)
    for j, nodes in enumerate(layers):
        entering = _network.at_layer(moments, layers, j)
        above = _network.fold(layers[:j], d + 1, moments)
        totals = entering[:, :, d, d].sum(0)
        empty = totals < d + 1
        updated = torch.zeros_like(nodes)
        # Nodes are dealt out: this process solves its own, and zeros stand for the others' in the sum.
        for i in range(group.rank, len(nodes), group.size):
            if bool(empty[i]):
                continue
            node = _node.Node(entering[:, i] / totals[i], above)
            try:
                updated[i], solved = _node.maximise(node, nodes[i], spec.solver_iterations)
            except _node.Singular:
                # Every process has to hear of it, and then refuses at once.
                updated[i], solved = math.nan, 0
            evaluations += solved
        group.sum(updated)
        collapsed = (~updated.isfinite().all(2).all(1)).nonzero().flatten().tolist()
        if collapsed:
            raise CannotBeDone(
                f"node {collapsed[0] + 1} of layer {j + 1} collapsed: the covariance of its examples is not positive "
                f"definite with ridge {spec.ridge:g} in {spec.precision}. Set ridge to {data.advice:.1g} or more"
                + (", or precision to float64." if spec.precision == "float32" else ", or fewer components.")
            )
        nodes.copy_(updated)
        for i in empty.nonzero().flatten().tolist():
            largest = int(totals.argmax())
            halve(nodes, i, largest, generator)
            shares = counts.view(-1, len(nodes), math.prod(spec.components[j + 1 :]))
            shares[:, i] = shares[:, largest] = shares[:, largest] / 2
            totals[i] = totals[largest] = totals[largest] / 2
            reseeded.append((j, i, largest))
    group.sum(evaluations)
    log_weights.copy_(path_weights(spec, counts))
    return reseeded, int(evaluations)


def path_weights(spec, counts: Tensor) -> Tensor:
    """log pi_p from (expected) examples of each path, (P,)."""
    counts = counts + spec.pseudo_count
    if spec.weights == "joint":
        return (counts / counts.sum()).log()
    shaped, total = counts.view(spec.components), torch.zeros_like(counts).view(spec.components)
    for j, nodes in enumerate(spec.components):
        others = [axis for axis in range(len(spec.components)) if axis != j]
        shares = shaped.sum(others) if others else shaped
        total = total + (shares / shares.sum()).log().view([nodes if axis == j else 1 for axis in range(shaped.ndim)])
    return total.flatten()


def halve(nodes: Tensor, empty: int, largest: int, generator: torch.Generator) -> None:
    """Make nodes `empty` and `largest` two halves of the latter, a little apart in place and scale; in place."""
    d = nodes.shape[1] - 1
    direction = torch.randn(d, generator=generator, device=nodes.device, dtype=nodes.dtype)
    offset = 0.5 * direction / direction.norm()
    ratio = math.exp(0.5 / math.sqrt(d))
    eye = torch.eye(d).to(nodes)
    wider = _network.homogeneous(eye / ratio, -offset) @ nodes[largest]
    narrower = _network.homogeneous(eye * ratio, offset) @ nodes[largest]
    nodes[empty], nodes[largest] = wider, narrower


def _rounding(spec, layers: list[Tensor], log_weights: Tensor, theta: Tensor, z: Tensor) -> float:
    """Mean absolute difference between the E-step's log p(z) and float64 on some examples, nats."""
    d = z.shape[1]
    probe = z[:: max(1, len(z) // _PROBED)]
    workspace = Workspace(len(theta), d, len(probe), z.dtype, z.device)
    constants = log_weights + _network.log_determinants(layers) - 0.5 * d * math.log(2 * math.pi)
    exact = _network.log_joint(probe.double(), _network.fold(layers, d + 1, log_weights), constants).logsumexp(0)
    rounding = float((workspace.log_prob(probe, theta) - exact).abs().mean())
    if rounding > _ROUNDING_NATS:
        raise CannotBeDone(
            f"{spec.precision} features are off by {rounding:.2g} nats because paths are very narrow: set precision to "
            "float64, or a larger ridge."
        )
    return rounding
