"""Training of the Deep GMM by stochastic gradients, and nodes that are put to use again."""

import itertools
import math

import deep_gmms as made
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.mixtures import _deep_em, _deep_sgd, _fitting, _network, deep_gmm
from dgmbench.models.mixtures._search import moments_of_paths
from dgmbench.training.distributed import Group
from dgmbench.training.session import Session

D, clusters, fit, random_model, rng = made.D, made.clusters, made.fit, made.random_model, made.rng


# Stochastic gradients


@pytest.mark.parametrize(("training", "epochs"), [("sgd", 60), ("sgd_layerwise", 120)])
def test_stochastic_gradients_raise_the_likelihood_towards_that_of_em(training, epochs):
    x = clusters()
    session = Session(rng())
    options = {"components": (3, 2), "start": "random"}
    trained = fit(x, session, training=training, iterations=epochs, batch=100, **options)
    probe = torch.from_numpy(x)
    untrained = fit(x, training=training, iterations=1, batch=1200, learning_rate=1e-9, **options)
    by_em = fit(x, iterations=60, **options)
    start, reached, best = (float(m.log_prob(probe).mean()) for m in (untrained, trained, by_em))
    assert reached > start + 0.8 * (best - start)
    assert session.history[-1]["validation_log_likelihood"] == pytest.approx(reached, abs=1e-6)


def test_the_relative_gradient_is_the_derivative_along_small_multiplications():
    model, *_ = random_model((2, 2))
    x = torch.randn(50, D, generator=rng(), dtype=torch.float64)
    layers = [layer.clone().requires_grad_(True) for layer in model._inverse]
    weights = model.state()["log_weights"]
    objective = _deep_sgd.layered_log_joint(x, layers, weights).logsumexp(0).mean()
    gradient = torch.autograd.grad(objective, layers)[0][1, :D]
    relative, step = gradient @ layers[0][1].detach().T, 1e-6
    for i, j in itertools.product(range(D), range(D + 1)):
        ends = []
        for sign in (1, -1):
            moved = [layer.detach().clone() for layer in layers]
            change = torch.eye(D + 1, dtype=torch.float64)
            change[i, j] += sign * step
            moved[0][1] = change @ moved[0][1]
            ends.append(float(_deep_sgd.layered_log_joint(x, moved, weights).logsumexp(0).mean()))
        assert float(relative[i, j]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_the_ridge_of_stochastic_gradients_is_that_of_em():
    """The penalty's gradient is what the ridge adds to the moments of the M-step."""
    model, *_ = random_model((2, 2))
    layers = [layer.clone().requires_grad_(True) for layer in model._inverse]
    weights, x = model.state()["log_weights"], torch.randn(60, D, generator=rng(), dtype=torch.float64)
    scores = _deep_sgd.layered_log_joint(x, layers, weights)
    ridge = 0.3 * torch.eye(D, dtype=torch.float64)
    found = torch.autograd.grad(_deep_sgd.ridge_penalty(layers, scores, ridge), layers[0])[0]
    shares = scores.detach().softmax(0).mean(1)
    folded = [layer.detach() for layer in layers]
    expected = torch.zeros_like(folded[0])
    for p, (i, j) in enumerate(itertools.product(range(2), range(2))):
        below = folded[1][j, :D, :D]
        expected[i, :D, :D] -= shares[p] * folded[0][i, :D, :D] @ below @ ridge @ below.T
    torch.testing.assert_close(found[:, :D, :D], expected[:, :D, :D])


def test_the_guard_brings_an_unused_node_back_and_without_it_the_node_stays_unused():
    x = clusters()
    unused = _deep_sgd.start

    def far_away(spec, data, generator):
        layers = unused(spec, data, generator)
        layers[0][0, :D, D] += 1e3  # a bias that no example is near to
        return layers

    usage, reseeded = {}, {}
    for least in (0.05, 0.0):
        session = Session(rng())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_deep_sgd, "start", far_away)
            spec = {"training": "sgd", "components": (3, 2), "iterations": 30, "batch": 100, "least_share": least}
            model = fit(x, session, **spec)
        usage[least] = float(model.path_posterior(torch.from_numpy(x)).mean(0).view(3, 2).sum(1).min())
        reseeded[least] = sum(row["reseeded_nodes"] for row in session.history)
    assert reseeded[0.05] > 0
    assert usage[0.05] > 0.05
    assert reseeded[0.0] == 0
    assert usage[0.0] < 1e-6


def test_a_step_of_any_velocity_leaves_a_node_invertible_with_the_sign_of_its_determinant():
    g = rng(3)
    nodes = _network.homogeneous(
        torch.randn(200, D, D, generator=g, dtype=torch.float64), torch.randn(200, D, generator=g, dtype=torch.float64)
    )
    before = torch.linalg.slogdet(nodes)
    velocity = 1e3 * torch.randn(200, D, D + 1, generator=g, dtype=torch.float64)
    # Adversarial: straight at the singular I + V, along one direction and along all.
    velocity[0] = torch.eye(D, D + 1) * -1e3
    velocity[1] = 0.0
    velocity[1, 0, 0] = -2.0
    spec = deep_gmm.Spec(components=(200,), training="sgd", momentum=0.5)
    _deep_sgd._step(nodes, torch.zeros(200, D, D + 1).double(), velocity, torch.ones(200).double(), 1.0, spec)
    after = torch.linalg.slogdet(nodes)
    assert torch.equal(after.sign, before.sign)
    assert float((after.logabsdet - before.logabsdet).min()) >= D * math.log(0.5) - 1e-9


def test_the_guard_conserves_usage_and_lets_both_halves_rest():
    spec = deep_gmm.Spec(components=(2, 3), training="sgd", least_share=0.5)
    names, eye = ["layer_0", "layer_1"], torch.eye(D + 1, dtype=torch.float64)
    state = {"usage": torch.tensor([0.5, 0.2, 0.01, 0.2, 0.08, 0.01], dtype=torch.float64)}
    for name, nodes in zip(names, spec.components, strict=True):
        state[name] = eye.repeat(nodes, 1, 1)
        state |= {f"velocity_{name}": torch.ones(nodes, D, D + 1).double(), f"rest_{name}": torch.zeros(nodes).long()}
    assert _deep_sgd._guard(spec, state, names, rng()) == 1  # the last node of the lower layer, used for 0.02
    assert state["usage"].sum() == pytest.approx(1.0)
    assert _deep_sgd.usage_of(state["usage"], spec, 1).tolist() == pytest.approx([0.36, 0.28, 0.36])
    assert state["rest_layer_1"].tolist() == [_deep_sgd._REST, 0, _deep_sgd._REST]
    # By what is seen since, both halves are out of use: they are not judged yet.
    seen = torch.tensor([0, 0.5, 0, 0, 0.5, 0]).double()
    state["usage"].copy_(seen)
    assert sum(_deep_sgd._guard(spec, state, names, rng()) for _ in range(_deep_sgd._REST - 1)) == 0
    assert state["rest_layer_1"].tolist() == [1, 0, 1]
    assert torch.equal(state["usage"], seen)
    assert _deep_sgd._guard(spec, state, names, rng()) == 2


def test_validation_of_gradients_is_of_evenly_spaced_examples():
    x = clusters(4000)
    x[2000:] += 50.0
    session = Session(rng())
    fit(x, session, components=(2, 2), training="sgd", iterations=2, batch=1000)
    values = [r["validation_log_likelihood"] for r in session.history if "validation_log_likelihood" in r]
    near = [r["log_likelihood"] for r in session.history]
    assert abs(values[-1] - near[-1]) < 2.0  # the first half alone would be told apart by far more


# Re-seeding


def test_halves_are_half_a_standard_deviation_apart_where_z_is():
    """Whatever the scale of what leaves a node: the nodes above bring it to z."""
    g = rng(1)
    above = 1e3 * torch.randn(4, D + 1, D + 1, generator=g, dtype=torch.float64)
    above[:, D] = torch.tensor([0.0] * D + [1.0])
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    node = _network.homogeneous(torch.randn(D, D, generator=g).double(), torch.randn(D, generator=g).double())
    nodes = torch.stack([torch.eye(D + 1).double(), node])
    _deep_em.halve(nodes, 0, 1, above, shares, g)
    ratio = math.exp(0.5 / math.sqrt(D))
    moved = nodes[0, :D, D] - node[:D, D] / ratio, nodes[1, :D, D] - node[:D, D] * ratio
    for offset in moved:
        assert float((shares @ (above[:, :D, :D] @ offset).square().sum(1)).sqrt()) == pytest.approx(0.5)
    torch.testing.assert_close(nodes[0, :D, :D] * ratio, node[:D, :D])
    torch.testing.assert_close(nodes[1, :D, :D] / ratio, node[:D, :D])


@pytest.mark.parametrize("empty_layer", [0, 1])
def test_a_split_conserves_the_examples_and_is_seen_by_the_layers_below(empty_layer):
    """Moments of the empty node and of the largest are shared by both: weights sum to one and nothing is lost."""
    x, sizes = torch.from_numpy(clusters()).double(), (2, 3)
    model, *_ = random_model(sizes)
    layers = [q.clone() for q in model._inverse]
    work = _fitting.working(
        Dataset("m", "m", "real", (D,), dict.fromkeys(("train", "validation"), Split(x.float().numpy())), {}),
        deep_gmm.Spec(components=sizes, precision="float64"), "whitened", 3, D + 1, torch.device("cpu"), Group(),
    )  # fmt: skip
    paths = torch.arange(len(work.z)) % 6
    node = torch.stack(torch.unravel_index(paths, sizes), 1)[:, empty_layer]
    paths = paths[node > 0].repeat(2)[: len(work.z)]
    moments = moments_of_paths(work.z[: len(paths)], paths, 6)
    before = moments.sum(0)
    log_weights = torch.zeros(6).double()
    split, _ = _deep_em.maximisation(
        deep_gmm.Spec(components=sizes), layers, log_weights, moments, work, rng(), Group()
    )
    assert [s[:2] for s in split] == [(empty_layer, 0)]
    torch.testing.assert_close(moments.sum(0), before)
    shares = log_weights.exp().view(sizes).sum(1 - empty_layer)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[0] == pytest.approx(float(shares[split[0][2]]))
    assert all(bool(torch.linalg.slogdet(q).logabsdet.isfinite().all()) for q in layers)
