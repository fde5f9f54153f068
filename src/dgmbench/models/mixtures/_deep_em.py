"""EM of a Deep GMM: statistics of paths, nodes from the top layer down, re-seeding, several processes.

    sum over the examples of path p of r_np (x, 1)(x, 1)^T   are all that the M-step sees of the data

In a group of processes each holds a shard of the examples: statistics are summed over the group, the nodes of a layer
are dealt out and their new values exchanged. All processes hold the same parameters at every step.

Reference: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, section 3.
"""

import math
from typing import Any

import torch
from torch import Tensor

from dgmbench.errors import CannotBeDone
from dgmbench.models.mixtures import _fitting, _layerwise, _network, _node
from dgmbench.models.mixtures._em import Workspace
from dgmbench.models.mixtures._fitting import Batch, Working
from dgmbench.models.mixtures._search import PathSearch, better, moments_of_paths
from dgmbench.training.distributed import Group
from dgmbench.training.session import Session

_WARM_PASSES, _RANDOM_PASSES = 1, 2


def start(spec, seen: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Q~ of each layer before the first step, from some examples (m, d), drawn alike by all processes."""
    if spec.start == "random":
        return _layerwise.nearby(seen, spec.components, generator)
    return _layerwise.fitted(seen, spec.components, spec.start_iterations, spec.start == "scales", generator)


def blank(spec, work: Working) -> dict[str, Any]:
    """What training carries from step to step, before it is restored: parameters of whitened data, in float64."""
    size, options = work.z.shape[1] + 1, {"dtype": torch.float64, "device": work.z.device}
    layers = {f"layer_{j}": torch.zeros(n, size, size, **options) for j, n in enumerate(spec.components)}
    paths = math.prod(spec.components)
    return {**layers, "log_weights": torch.full((paths,), -math.log(paths), **options)}


def fit(spec, work: Working, seen: Tensor, session: Session, group: Group) -> tuple[list[Tensor], Tensor]:
    """EM: the fitted Q~ of each layer and log pi, (P,), on whitened data.

    Args:
        seen: (m, d), the examples that the start is made from.
    """
    em = blank(spec, work) | {"previous": -math.inf, "stop": False}
    layers = [em[f"layer_{j}"] for j in range(len(spec.components))]
    paths, (_, d), device = len(em["log_weights"]), work.z.shape, work.z.device
    if spec.assignment == "heuristic":
        em["paths"] = torch.zeros(work.count, dtype=torch.int64, device=device)
    if spec.minibatch is not None:
        em |= {"averages": torch.zeros(paths, d + 1, d + 1).to(em["log_weights"]), "batches": 0}
    if not session.resumable:
        for nodes, first in zip(layers, start(spec, seen, session.generator), strict=True):
            nodes.copy_(first)
        if spec.assignment == "heuristic":
            em["paths"].random_(paths, generator=session.generator)
        if spec.minibatch is not None:
            em["averages"].copy_(implied(layers, em["log_weights"], work.ridge))
    session.track(em=em)
    workspace = Workspace(paths, d, _fitting.CHUNK, work.z.dtype, device)
    for _ in session.steps(spec.iterations, unit="iteration"):
        if em["stop"]:
            break
        exchanged = group.exchanged
        theta = _network.natural_parameters(layers, em["log_weights"])
        rounding = _rounding(spec, work, layers, em["log_weights"], workspace)
        validation = float(workspace.log_prob(work.validation, theta).mean(dtype=torch.float64))
        objective, measured = _pass(spec, work, layers, em, workspace, session.generator, group)
        name = "log_likelihood" if spec.assignment == "soft" else "best_path_log_likelihood"
        row = {name: objective - work.log_volume, "validation_log_likelihood": validation - work.log_volume}
        row |= {"rounding": rounding, **measured}
        session.record(**row, **_fitting.exchanged_share(group, exchanged, work))
        # Stopping is noted for the next step to see, so that this one still closes its row of the history.
        em["stop"] = measured["reseeded_nodes"] == 0 and abs(objective - em["previous"]) < spec.tolerance
        em["previous"] = objective
    _rounding(spec, work, layers, em["log_weights"], workspace)
    return layers, em["log_weights"]


def _rounding(spec, work: Working, layers: list[Tensor], log_weights: Tensor, workspace: Workspace) -> float:
    exact = _network.log_joint(work.probe.double(), *_network.path_densities(layers, log_weights)).logsumexp(0)
    theta = _network.natural_parameters(layers, log_weights)
    return _fitting.check_rounding(spec, workspace.log_prob(work.probe, theta), exact)


def _pass(
    spec,
    work: Working,
    layers: list[Tensor],
    em: dict[str, Any],
    workspace: Workspace,
    generator: torch.Generator,
    group: Group,
) -> tuple[float, dict[str, float]]:
    """Every example once, the parameters moved in place: mean objective along the pass, and what was counted."""
    total, counted = 0.0, {"reseeded_nodes": 0.0, "solver_evaluations": 0.0}
    for batch in _fitting.minibatches(work, spec.minibatch, generator):
        theta = _network.natural_parameters(layers, em["log_weights"])
        objective, moments, measured = expectation(spec, batch, work.first, theta, em, workspace, generator, group)
        if spec.minibatch is not None:
            moments = _fitting.remembered(em, batch, moments, spec.decay, work.count)
        reseeded, evaluations = maximisation(spec, layers, em["log_weights"], moments, work, generator, group)
        if reseeded and spec.minibatch is not None:
            # What is remembered of paths through a split node is what their new parameters imply.
            changed = _paths_through(spec, reseeded)
            em["averages"][changed] = implied(layers, em["log_weights"], work.ridge)[changed]
        total += objective * batch.count
        counted["reseeded_nodes"] += len(reseeded)
        counted["solver_evaluations"] += evaluations
        for name, value in measured.items():
            counted[name] = counted.get(name, 0.0) + value * batch.count / work.count
    return total / work.count, counted


def implied(layers: list[Tensor], log_weights: Tensor, ridge: Tensor) -> Tensor:
    """pi_p E[(x, 1)(x, 1)^T given p] as the parameters say, less the ridge that an M-step adds: (P, d + 1, d + 1).

    The expectation is the product of a path's own map with its transpose.
    """
    forward = torch.linalg.inv(_network.fold(layers, layers[0].shape[-1], log_weights))
    seconds = forward @ forward.mT
    seconds[:, :-1, :-1] -= ridge
    return log_weights.exp()[:, None, None] * seconds


def _paths_through(spec, reseeded: list[tuple[int, int, int]]) -> Tensor:
    """Which paths go through nodes that were split, (P,) bool."""
    through = torch.zeros(spec.components, dtype=torch.bool)
    for j, empty, largest in reseeded:
        through.movedim(j, 0)[[empty, largest]] = True
    return through.flatten()


def expectation(
    spec,
    batch: Batch,
    first: int,
    theta: Tensor,
    em: dict[str, Any],
    workspace: Workspace,
    generator: torch.Generator,
    group: Group,
) -> tuple[float, Tensor, dict[str, float]]:
    """Mean objective in nats of whitened data, moments of every path, and what was counted.

    The heuristic continues from em["paths"], and leaves there the paths that it found; `first` is the row of the
    training data where this process's shard begins.
    """
    d, theta = batch.z.shape[1], theta.to(batch.z.dtype)
    tally = torch.zeros(2, dtype=torch.float64, device=theta.device)
    if spec.assignment == "soft":
        tally[0], sums = workspace.accumulate(batch.z, theta)
        group.sum(tally, sums)
        return float(tally[0]) / batch.count, _network.second_moments(sums, d), {}
    search, measured = PathSearch(spec.components, theta, d, _fitting.CHUNK), {}
    if spec.assignment == "hard":
        scores, paths = search.every(batch.z)
    else:
        # Every process draws the random paths of all examples, and takes its own.
        drawn = torch.randint(len(theta), em["paths"].shape, generator=generator, device=theta.device)
        rows = first + batch.places
        warm = search.ascend(batch.z, em["paths"][rows], _WARM_PASSES)
        random = search.ascend(batch.z, drawn[rows], _RANDOM_PASSES)
        tally[1] = ((random[0] > warm[0]) & (random[1] != warm[1])).sum()
        scores, paths = better(warm, random)
        expected = (_WARM_PASSES + _RANDOM_PASSES) * sum(spec.components)
        assert search.evaluations == expected * len(batch.z)
        group.place(em["paths"], rows, paths)
    tally[0] = scores.sum(dtype=torch.float64)
    moments = moments_of_paths(batch.z, paths, len(theta))
    group.sum(tally, moments)
    if spec.assignment == "heuristic":
        measured = {"path_evaluations": expected, "switch_rate": float(tally[1]) / batch.count}
    return float(tally[0]) / batch.count, moments, measured


def maximisation(
    spec,
    layers: list[Tensor],
    log_weights: Tensor,
    moments: Tensor,
    work: Working,
    generator: torch.Generator,
    group: Group,
) -> tuple[list[tuple[int, int, int]], int]:
    """The M-step, in place; returns the nodes split and how often node objectives were evaluated.

    A split is (layer, node without examples, the node that it is now a half of). `moments` are used up.
    """
    size = moments.shape[-1]
    moments[:, :-1, :-1] += moments[:, -1, -1, None, None] * work.ridge
    reseeded, evaluations = [], torch.zeros(1, dtype=torch.float64, device=moments.device)
    for j, nodes in enumerate(layers):
        entering = _network.at_layer(moments, layers, j)
        above = _network.fold(layers[:j], size, moments)
        counts = entering[:, :, -1, -1]
        totals = counts.sum(0)
        empty = totals < size
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
                f"definite with ridge {spec.ridge:g} in {spec.precision}. Set ridge to {work.advice:.1g} or more"
                f"{_fitting.otherwise(spec)}."
            )
        nodes.copy_(updated)
        for i in empty.nonzero().flatten().tolist():
            largest = int(totals.argmax())
            halve(nodes, i, largest, above, counts[:, largest] / counts[:, largest].sum(), generator)
            # Both halves stand for the same examples, those that the empty node still had with them.
            shared = moments.view(-1, len(nodes), math.prod(spec.components[j + 1 :]), size, size)
            shared[:, i] = shared[:, largest] = (shared[:, i] + shared[:, largest]) / 2
            counts[:, i] = counts[:, largest] = (counts[:, i] + counts[:, largest]) / 2
            totals[i] = totals[largest] = (totals[i] + totals[largest]) / 2
            reseeded.append((j, i, largest))
    group.sum(evaluations)
    log_weights.copy_(path_weights(spec, moments[:, -1, -1] + spec.pseudo_count))
    return reseeded, int(evaluations)


def path_weights(spec, counts: Tensor) -> Tensor:
    """log pi_p from the weights, of any scale, of each path's examples, (P,)."""
    if spec.weights == "joint":
        return (counts / counts.sum()).log()
    shaped, total = counts.view(spec.components), torch.zeros_like(counts).view(spec.components)
    for j, nodes in enumerate(spec.components):
        others = [axis for axis in range(len(spec.components)) if axis != j]
        shares = shaped.sum(others) if others else shaped
        total = total + (shares / shares.sum()).log().view([nodes if axis == j else 1 for axis in range(shaped.ndim)])
    return total.flatten()


def halve(nodes: Tensor, empty: int, largest: int, above: Tensor, shares: Tensor, generator: torch.Generator) -> None:
    """Make nodes `empty` and `largest` two halves of the latter, a little apart in place and scale; in place.

    What leaves a node is of no scale of its own: the paths `above` (U, d + 1, d + 1) bring it to z ~ N(0, I), where the
    halves are half a standard deviation to either side, on average over these paths with weights `shares` (U,).
    """
    d = nodes.shape[1] - 1
    direction = torch.randn(d, generator=generator, device=nodes.device, dtype=nodes.dtype)
    length = (shares @ (above[:, :d, :d] @ direction).square().sum(1)).sqrt()
    offset = 0.5 * direction / length
    ratio = math.exp(0.5 / math.sqrt(d))
    eye = torch.eye(d).to(nodes)
    wider = _network.homogeneous(eye / ratio, -offset) @ nodes[largest]
    narrower = _network.homogeneous(eye * ratio, offset) @ nodes[largest]
    nodes[empty], nodes[largest] = wider, narrower
