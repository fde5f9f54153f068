"""Stochastic gradients of the log-likelihood of a Deep GMM, for all layers at once or one layer at a time.

    g_ji = (1 / share_ji) mean_batch d/dQ~_ji log p(x),    Q~_ji <- (I + rate velocity_ji) Q~_ji,
    velocity_ji <- momentum velocity_ji + (1 - momentum) g_ji Q~_ji^T

g Q~^T is the relative gradient (Cardoso and Laheld): steps mean the same whatever the scale of a node, which plain
gradients of inverse matrices do not. It is divided by the node's share of the examples, so that a rarely used node
learns from its own examples at the rate of the others: the paper's unused parts begin where nodes converge too slowly.
The guard on top of it re-seeds a node whose share falls below a stated part of its fair one, as a half of the layer's
most used node. Path weights follow the responsibilities as a moving average.

References: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, section 3.2, "Optimization"; Cardoso and Laheld, "Equivariant adaptive source separation", IEEE Transactions on
Signal Processing 44(12), 1996.
"""

import math

import torch
from torch import Tensor

from dgmbench.errors import CannotBeDone
from dgmbench.models.mixtures import _network
from dgmbench.models.mixtures._deep_em import blank, halve, path_weights, start
from dgmbench.models.mixtures._fitting import Working, spread
from dgmbench.training.distributed import Group
from dgmbench.training.session import Session

# Gradients of one layer are followed for so many steps before the next layer's.
_STEPS_A_LAYER = 20
# Weight of the newest batch in the moving average of responsibilities.
_NEWEST = 0.02
# Spectral norm that a relative step is shortened to: every singular value of I + step is then 1/2 or more, so that no
# step makes a node singular or turns the sign of its determinant.
_LONGEST = 0.5
_VALIDATED = 2_000
# Batches that both halves of a re-seeded node are left alone: what the moving average needs to see them as they are.
_REST = round(1 / _NEWEST)


def fit(spec, work: Working, seen: Tensor, session: Session, group: Group) -> tuple[list[Tensor], Tensor]:
    """The fitted Q~ of each layer and log pi, (P,), on whitened data; validation after each epoch, on 2,000 examples.

    Args:
        seen: (m, d), the examples that the start is made from.

    Raises:
        CannotBeDone: started in several processes, which this training does not share out.
    """
    if group.size > 1:
        raise CannotBeDone("stochastic gradients are not shared out: set training to em, or start one process.")
    state = blank(spec, work)
    d, paths = work.z.shape[1], math.prod(spec.components)
    names = [f"layer_{j}" for j in range(len(spec.components))]
    velocities = {f"velocity_{name}": torch.zeros(len(state[name]), d, d + 1).to(state[name]) for name in names}
    rests = {f"rest_{name}": torch.zeros(len(state[name]), dtype=torch.int64, device=work.z.device) for name in names}
    state |= velocities | rests | {"usage": torch.full_like(state["log_weights"], 1 / paths)}
    validated = work.validation[spread(len(work.validation), _VALIDATED)].double()
    if not session.resumable:
        for name, nodes in zip(names, start(spec, seen, session.generator), strict=True):
            state[name].copy_(nodes)
    session.track(state=state)
    batches = max(1, work.count // spec.batch)
    total = spec.iterations * batches
    for step in session.steps(total, unit="batch"):
        rows = torch.randint(
            work.count, (min(spec.batch, work.count),), generator=session.generator, device=work.z.device
        )
        x = work.z[rows].double()
        layers = [state[name].requires_grad_(True) for name in names]
        scores = layered_log_joint(x, layers, state["log_weights"])
        log_prob = scores.logsumexp(0)
        gradients = torch.autograd.grad(log_prob.mean() + ridge_penalty(layers, scores, work.ridge), layers)
        length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        # Recorded before the step: a divergence is noticed while the parameters are still those of a finite likelihood.
        session.record(log_likelihood=float(log_prob.detach().mean()) - work.log_volume, gradient_norm=length)
        with torch.no_grad():
            for name in names:
                state[name].requires_grad_(False)
            state["usage"].lerp_(scores.softmax(0).mean(1), _NEWEST)
            only = (step // _STEPS_A_LAYER) % len(names) if spec.training == "sgd_layerwise" else None
            rate = spec.learning_rate * (1 - step / total)
            for j, (name, gradient) in enumerate(zip(names, gradients, strict=True)):
                if only is None or only == j:
                    _step(
                        state[name], gradient, state[f"velocity_{name}"], usage_of(state["usage"], spec, j), rate, spec
                    )
            reseeded = _guard(spec, state, names, session.generator)
            state["log_weights"].copy_(path_weights(spec, state["usage"] + 1e-12))
        row = {"reseeded_nodes": reseeded}
        if (step + 1) % batches == 0:
            validation = (
                layered_log_joint(validated, [state[n] for n in names], state["log_weights"]).logsumexp(0).mean()
            )
            row["validation_log_likelihood"] = float(validation) - work.log_volume
        session.record(**row)
    return [state[name] for name in names], state["log_weights"]


def layered_log_joint(x: Tensor, layers: list[Tensor], log_weights: Tensor) -> Tensor:
    """log pi_p N(x; path p) by one product for each node and each path below it: (m, d) -> (P, m), nats."""
    d = x.shape[1]
    values = torch.cat([x, x.new_ones(len(x), 1)], 1)[None]
    for nodes in reversed(layers):
        # (N, 1, d+1, d+1) on (1, L, m, d+1): the new layer becomes the leading index of the path.
        values = torch.matmul(values[None], nodes[:, None].mT).flatten(0, 1)
    constants = log_weights + _network.log_determinants(layers) - 0.5 * d * math.log(2 * math.pi)
    return constants[:, None] - 0.5 * values[..., :d].square().sum(-1)


def ridge_penalty(layers: list[Tensor], scores: Tensor, ridge: Tensor) -> Tensor:
    """-1/2 sum_p r_p Tr[W_p^T W_p ridge]: what N(0, ridge) added to every example takes from its expected log joint."""
    d = len(ridge)
    if not bool(ridge.any()):
        return scores.new_zeros(())
    linear = _network.fold(layers, d + 1, layers[0])[:, :d, :d]
    shares = scores.detach().softmax(0).mean(1)
    return -0.5 * (shares * torch.einsum("pij,jk,pik->p", linear, ridge, linear)).sum()


def usage_of(usage: Tensor, spec, j: int) -> Tensor:
    """Shares of the nodes of layer j, from those of the paths: (P,) -> (N_j,)."""
    others = [axis for axis in range(len(spec.components)) if axis != j]
    shaped = usage.view(spec.components)
    return shaped.sum(others) if others else shaped


def _step(nodes: Tensor, gradient: Tensor, velocity: Tensor, shares: Tensor, rate: float, spec) -> None:
    d = velocity.shape[1]
    fair = 1e-3 / len(nodes)
    relative = (gradient[:, :d] @ nodes.mT) / shares.clamp(min=fair)[:, None, None]
    velocity.mul_(spec.momentum).add_(relative, alpha=1 - spec.momentum)
    length = torch.linalg.matrix_norm(velocity, ord=2)
    shortened = (_LONGEST / (rate * length).clamp(min=1e-30)).clamp(max=1.0)
    nodes[:, :d] += (rate * shortened)[:, None, None] * (velocity @ nodes)


def _guard(spec, state: dict[str, Tensor], names: list[str], generator: torch.Generator) -> int:
    """Re-seed the nodes that have fallen out of use, in place; how many they were."""
    reseeded = 0
    for j, name in enumerate(names):
        layers, rest = [state[n] for n in names[:j]], state[f"rest_{name}"]
        rest.sub_(1).clamp_(min=0)
        shares = usage_of(state["usage"], spec, j)
        for i in ((shares < spec.least_share / len(shares)) & (rest == 0)).nonzero().flatten().tolist():
            largest = int(shares.argmax())
            shaped = state["usage"].view(-1, len(shares), math.prod(spec.components[j + 1 :]))
            through = shaped[:, largest].sum(1)
            above = _network.fold(layers, len(state[name][0]), state[name])
            halve(state[name], i, largest, above, through / through.sum(), generator)
            state[f"velocity_{name}"][i] = state[f"velocity_{name}"][largest] = 0.0
            shaped[:, i] = shaped[:, largest] = (shaped[:, i] + shaped[:, largest]) / 2
            rest[i] = rest[largest] = _REST
            shares = usage_of(state["usage"], spec, j)
            reseeded += 1
    return reseeded
