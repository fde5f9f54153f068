"""The Deep GMM against scipy path by path, the mixture of one layer, its own samples, and Bayes by quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from scipy.special import logsumexp

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.models.density import gaussian
from dgmbench.models.mixtures import _deep_em, _deep_sgd, _fitting, _network, deep_gmm, gmm
from dgmbench.models.mixtures._search import PathSearch, moments_of_paths
from dgmbench.training.distributed import Group
from dgmbench.training.session import Session

D = 3


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(n: int = 1200, parts: int = 4, seed: int = 7, d: int = D) -> np.ndarray:
    g = np.random.default_rng(seed)
    x = [g.normal(size=(n // parts, d)) @ g.normal(size=(d, d)) + 2 * g.normal(size=d) for _ in range(parts)]
    whole = np.concatenate(x).astype(np.float32)
    g.shuffle(whole)
    return whole


def fit(x: np.ndarray, session: Session | None = None, module=deep_gmm, **spec):
    split = Split(x)
    data = Dataset("made", "made", "real", x.shape[1:], dict.fromkeys(("train", "validation", "test"), split), {})
    model = module.Model(module.Spec(**spec), x.shape[1])
    model.fit(data, session or Session(rng()))
    return model


def random_model(sizes=(3, 2, 2), d: int = D, seed: int = 0, spread: float = 1.0):
    """A Deep GMM with given layers, and its parameters as numpy arrays: matrices, biases of each layer, weights."""
    g = np.random.default_rng(seed)
    # Products of well-conditioned matrices stay well conditioned: rotations of stretched axes.
    matrices = [np.linalg.qr(g.normal(size=(n, d, d)))[0] * g.uniform(0.5, 1.6, size=(n, 1, d)) for n in sizes]
    biases = [spread * g.normal(size=(n, d)) for n in sizes]
    weights = g.dirichlet(3 * np.ones(math.prod(sizes)))
    model = deep_gmm.Model(deep_gmm.Spec(components=sizes), d)
    state = {"log_weights": torch.from_numpy(np.log(weights))}
    for j, (a, b) in enumerate(zip(matrices, biases, strict=True), 1):
        state |= {f"matrices_{j}": torch.from_numpy(a), f"biases_{j}": torch.from_numpy(b)}
    model.load_state(state)
    return model, matrices, biases, weights


def path_scores(x: np.ndarray, matrices, biases, weights) -> np.ndarray:
    """log pi_p N(x; beta_p, Omega_p Omega_p^T) by equations 1 to 3, path after path, and scipy: (n, P)."""
    columns = []
    for weight, path in zip(weights, itertools.product(*(range(len(a)) for a in matrices)), strict=True):
        mean, root = np.zeros(x.shape[1]), np.eye(x.shape[1])
        for a, b, node in zip(matrices, biases, path, strict=True):
            mean, root = a[node] @ mean + b[node], a[node] @ root
        columns.append(np.log(weight) + stats.multivariate_normal(mean, root @ root.T).logpdf(x))
    return np.stack(columns, 1)


# The density


@pytest.mark.parametrize("sizes", [(4,), (3, 2), (3, 2, 2), (1, 3, 1, 2)])
def test_the_density_is_that_of_all_paths_by_scipy(sizes):
    model, *parameters = random_model(sizes)
    x = 2 * torch.randn(200, D, generator=rng(), dtype=torch.float64)
    expected = path_scores(x.numpy(), *parameters)
    np.testing.assert_allclose(model.log_prob(x).numpy(), logsumexp(expected, axis=1), rtol=1e-10)
    np.testing.assert_array_equal(model.assign(x).numpy(), expected.argmax(1))
    np.testing.assert_allclose(model.best_paths(x)[0].numpy(), expected.max(1), rtol=1e-10)
    posterior = np.exp(expected - logsumexp(expected, axis=1, keepdims=True))
    np.testing.assert_allclose(model.path_posterior(x).numpy(), posterior, rtol=1e-8, atol=1e-12)


def test_features_and_layered_products_give_the_same_log_joint():
    model, *parameters = random_model()
    x = torch.randn(50, D, generator=rng(), dtype=torch.float64)
    expected = path_scores(x.numpy(), *parameters).T
    inverse, log_weights = model._inverse, model.state()["log_weights"]
    search = PathSearch((3, 2, 2), _network.natural_parameters(inverse, log_weights), D, 17)
    np.testing.assert_allclose(search.every(x)[0].numpy(), expected.max(0), rtol=1e-9)
    np.testing.assert_allclose(_deep_sgd.layered_log_joint(x, inverse, log_weights).numpy(), expected, rtol=1e-9)


def test_the_equivalent_shallow_mixture_is_a_gmm_with_the_same_density_and_posteriors():
    model, *_ = random_model()
    shallow = gmm.Model(gmm.Spec(components=12), D)
    shallow.load_state(model.shallow())
    x = 2 * torch.randn(100, D, generator=rng(), dtype=torch.float64)
    torch.testing.assert_close(shallow.log_prob(x), model.log_prob(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(shallow.posterior_mean(x, 0.5), model.posterior_mean(x, 0.5))
    torch.testing.assert_close(shallow.posterior_mode(x, 0.5), model.posterior_mode(x, 0.5))
    assert torch.equal(shallow.assign(x), model.assign(x))


def test_samples_take_the_paths_in_their_proportions_and_follow_their_transformations():
    model, matrices, biases, weights = random_model()
    n = 40_000
    x, nodes, trail = model.sample_path(n, rng(1))
    assert trail.shape == (4, n, D)
    assert nodes.shape == (n, 3)
    for j in range(3):
        a, b = matrices[j][nodes[:, j]], biases[j][nodes[:, j]]
        np.testing.assert_allclose(trail[j + 1], np.einsum("nij,nj->ni", a, trail[j]) + b, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(x, trail[-1], rtol=1e-6, atol=1e-6)
    paths = np.ravel_multi_index(nodes.T.numpy(), (3, 2, 2))
    share = np.bincount(paths, minlength=12) / n
    # 5 standard errors of each share: false alarms below 1e-5.
    assert (np.abs(share - weights) < 5 * np.sqrt(weights * (1 - weights) / n)).all()
    assert torch.equal(model.nodes(torch.from_numpy(paths)), nodes)
    # z is standard normal, also among those that took one path.
    for column in trail[0][paths == paths[0]].T.numpy():
        assert stats.kstest(column, "norm").pvalue > 1e-5


def test_missing_values_are_drawn_from_their_conditional_given_the_known_ones():
    model, *parameters = random_model(d=2)
    known, value = torch.tensor([True, False]), 0.8
    drawn = model.complete(torch.full((20_000, 2), value), known, rng(3))
    assert (drawn[:, 0] == value).all()
    grid = np.linspace(-25, 25, 20_001)
    density = np.exp(logsumexp(path_scores(np.stack([np.full_like(grid, value), grid], 1), *parameters), axis=1))
    cdf = np.cumsum(density) / density.sum()
    assert stats.kstest(drawn[:, 1].numpy(), lambda v: np.interp(v, grid, cdf)).pvalue > 1e-5


def test_with_nothing_known_completion_samples_and_with_all_known_it_changes_nothing():
    model, *_ = random_model()
    x = torch.randn(20_000, D, generator=rng())
    assert torch.equal(model.complete(x, torch.ones(D, dtype=torch.bool), rng()), x)
    drawn, sampled = model.complete(x, torch.zeros(D, dtype=torch.bool), rng()), model.sample(20_000, rng(1))
    for a, b in zip(drawn.T.numpy(), sampled.T.numpy(), strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-5


# The lattice of reductions


@pytest.mark.parametrize("components", [(1,), (1, 1), (1, 1, 1)])
def test_one_node_in_every_layer_is_the_closed_form_gaussian(components):
    x = clusters()
    deep = fit(x, components=components, iterations=2, precision="float64", ridge=0.1)
    closed = fit(x, module=gaussian, ridge=0.1)
    probe = torch.from_numpy(x[:100])
    torch.testing.assert_close(deep.log_prob(probe), closed.log_prob(probe), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_one_layer_is_the_gaussian_mixture_iteration_by_iteration(ridge):
    x = clusters()
    spec = {"iterations": 12, "tolerance": 0.0, "precision": "float64", "start": "random", "ridge": ridge}
    shallow, deep = Session(rng(1)), Session(rng(1))
    mixture = fit(x, shallow, module=gmm, components=5, **spec)
    model = fit(x, deep, components=(5,), **spec)
    for one, other in zip(shallow.history, deep.history, strict=True):
        assert one["log_likelihood"] == pytest.approx(other["log_likelihood"], rel=1e-9)
    probe = torch.from_numpy(x[:100])
    torch.testing.assert_close(model.log_prob(probe), mixture.log_prob(probe), rtol=1e-8, atol=1e-8)


def test_single_nodes_below_the_top_change_nothing():
    x = clusters()
    spec = {"iterations": 6, "tolerance": 0.0, "precision": "float64", "start": "random"}
    one, more = Session(rng(1)), Session(rng(1))
    fit(x, one, components=(4,), **spec)
    fit(x, more, components=(4, 1), solver_iterations=300, **spec)
    # The layer below starts near the identity: the first step differs by it, and the top layer undoes it from then on.
    assert more.history[-1]["log_likelihood"] == pytest.approx(one.history[-1]["log_likelihood"], abs=0.05)


# Training


@pytest.mark.parametrize("weights", ["joint", "factorised"])
@pytest.mark.parametrize("assignment", ["soft", "hard", "heuristic"])
@pytest.mark.parametrize("start", ["layerwise", "scales", "random"])
def test_the_objective_of_em_never_falls(assignment, weights, start):
    session = Session(rng(3))
    spec = {"assignment": assignment, "weights": weights, "start": start, "start_examples": 600}
    fit(clusters(), session, components=(3, 2, 2), iterations=15, tolerance=0.0, precision="float64", **spec)
    name = "log_likelihood" if assignment == "soft" else "best_path_log_likelihood"
    curve = np.array([row[name] for row in session.history])
    assert len(curve) == 15
    assert all(row["reseeded_nodes"] == 0 for row in session.history)
    assert np.diff(curve).min() > -1e-9
    assert curve[-1] > curve[0] + 0.05


def test_the_recorded_likelihood_is_that_of_the_parameters_in_data_space():
    x = clusters()
    spec = {"components": (3, 2), "tolerance": 0.0, "precision": "float64"}
    session = Session(rng(3))
    fit(x, session, iterations=6, **spec)
    reached = fit(x, Session(rng(3)), iterations=5, **spec).log_prob(torch.from_numpy(x)).mean()
    assert session.history[-1]["log_likelihood"] == pytest.approx(float(reached), abs=1e-9)
    assert session.history[-1]["validation_log_likelihood"] == pytest.approx(float(reached), abs=1e-9)


def test_the_best_path_is_a_lower_bound_and_is_what_hard_em_records():
    x = clusters()
    spec = {"components": (3, 2), "tolerance": 0.0, "precision": "float64", "assignment": "hard"}
    session = Session(rng(3))
    fit(x, session, iterations=6, **spec)
    model = fit(x, Session(rng(3)), iterations=5, **spec)
    best = float(model.best_paths(torch.from_numpy(x))[0].mean())
    assert session.history[-1]["best_path_log_likelihood"] == pytest.approx(best, abs=1e-9)
    assert best < float(model.log_prob(torch.from_numpy(x)).mean())


@pytest.mark.parametrize(("assignment", "gap"), [("soft", 0.02), ("hard", 0.05)])
def test_it_recovers_a_known_deep_gmm_from_its_own_samples(assignment, gap):
    truth, *_ = random_model((3, 2), d=2, seed=4, spread=3.0)
    x, unseen = truth.sample(20_000, rng(1)), truth.sample(20_000, rng(2))
    found = []
    for seed in range(4):  # EM has local optima: the best training likelihood of four starts is taken
        model = fit(
            x.numpy(),
            Session(rng(seed)),
            components=(3, 2),
            iterations=60,
            assignment=assignment,
            solver_iterations=50,
            start="random",
            precision="float64",
            tolerance=1e-6,
        )
        found.append((float(model.log_prob(x).mean()), model))
    best = max(found, key=lambda pair: pair[0])[1]
    divergence = float((truth.log_prob(unseen) - best.log_prob(unseen)).mean())
    assert -0.01 < divergence < gap


def test_the_heuristic_counts_its_path_evaluations_and_is_never_better_than_the_full_search():
    x = clusters()
    session = Session(rng())
    model = fit(x, session, components=(4, 3, 2), assignment="heuristic", iterations=5, pseudo_count=1.0)
    assert all(row["path_evaluations"] == 3 * (4 + 3 + 2) for row in session.history)
    assert all(0 <= row["switch_rate"] <= 1 for row in session.history)
    probe = torch.from_numpy(x).double()
    full, best = model.best_paths(probe)
    scores = model._scores(probe)
    joint = torch.cat(list(scores), 1)
    previous = None
    for passes, repeats in ((1, 1), (3, 1), (3, 20)):
        found, paths, evaluations = model.search_paths(probe, passes, repeats, rng(5))
        assert evaluations == passes * repeats * 9
        assert (found <= full + 1e-6).all()
        torch.testing.assert_close(joint[paths, torch.arange(len(probe))], found, rtol=1e-7, atol=1e-7)
        assert previous is None or (found >= previous - 1e-9).all()
        previous = found
    assert float((paths == best).double().mean()) > 0.95


def test_a_pass_never_lowers_the_score_and_a_single_layer_needs_one():
    model, *_ = random_model((5, 4))
    theta = _network.natural_parameters(model._inverse, model.state()["log_weights"])
    x = 2 * torch.randn(300, D, generator=rng(), dtype=torch.float64)
    search, start = PathSearch((5, 4), theta, D, 64), torch.zeros(300, dtype=torch.int64)
    reached = [search.ascend(x, start, passes)[0] for passes in (1, 2, 3)]
    # The same path scored in another group of examples may differ in the last bit.
    assert (reached[1] >= reached[0] - 1e-12).all()
    assert (reached[2] >= reached[1] - 1e-12).all()
    flat, *_ = random_model((7,))
    alone = PathSearch((7,), _network.natural_parameters(flat._inverse, flat.state()["log_weights"]), D, 64)
    assert torch.equal(alone.ascend(x, start, 1)[1], alone.every(x)[1])


def test_factorised_weights_are_products_of_the_nodes_shares():
    spec = deep_gmm.Spec(components=(2, 3), weights="factorised")
    counts = torch.tensor([6.0, 1, 3, 2, 5, 3], dtype=torch.float64)
    expected = np.outer([0.5, 0.5], [0.4, 0.3, 0.3]).ravel()
    np.testing.assert_allclose(_deep_em.path_weights(spec, counts).exp(), expected)
    joint = _deep_em.path_weights(deep_gmm.Spec(components=(2, 3)), counts)
    np.testing.assert_allclose(joint.exp(), counts.numpy() / 20)


@pytest.mark.parametrize("minibatch", [None, 100])
def test_a_node_without_examples_is_reseeded_reported_and_used_again(minibatch):
    x = np.concatenate([clusters(300), np.full((1, D), 500.0, dtype=np.float32)])
    session = Session(rng(2))
    spec = {"components": (12, 2), "minibatch": minibatch, "ridge": 0.01, "start": "random"}
    model = fit(x, session, iterations=10, tolerance=0.0, **spec)
    assert sum(row["reseeded_nodes"] for row in session.history) > 0
    assert float(model.state()["log_weights"].exp().sum()) == pytest.approx(1)
    assert torch.isfinite(model.log_prob(torch.from_numpy(x))).all()


def test_float32_agrees_with_float64():
    x = clusters(4000)
    spec = {"components": (4, 2), "iterations": 15, "tolerance": 0.0}
    session = Session(rng())
    single, double = fit(x, session, **spec), fit(x, precision="float64", **spec)
    probe = torch.from_numpy(x)
    assert float(single.log_prob(probe).mean()) == pytest.approx(float(double.log_prob(probe).mean()), abs=1e-4)
    assert max(row["rounding"] for row in session.history) < 1e-4


def test_what_parameters_imply_are_the_moments_of_their_samples():
    model, *_ = random_model((2, 2))
    x, _, _ = model.sample_path(200_000, rng())
    extended = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    told = _deep_em.implied(model._inverse, model.state()["log_weights"], torch.zeros(D, D).double()).sum(0)
    products = extended[:, :, None] * extended[:, None, :]
    se = products.std(0) / math.sqrt(len(x))
    assert ((told - products.mean(0)).abs() <= 5 * se + 1e-12).all()


@pytest.mark.parametrize("assignment", ["soft", "hard"])
def test_one_batch_of_all_examples_without_memory_is_em(assignment):
    x = clusters()
    spec = {"components": (3, 2), "iterations": 2, "tolerance": 0.0, "precision": "float64", "assignment": assignment}
    spec |= {"solver_iterations": 500, "start": "layerwise"}  # a start whose nodes all have examples: nothing is drawn
    plain, batched = fit(x, **spec), fit(x, minibatch=len(x), decay=0.0, **spec)
    # The order of the examples is drawn anew; EM draws nothing after its start.
    probe = torch.from_numpy(x)
    torch.testing.assert_close(batched.log_prob(probe), plain.log_prob(probe), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("assignment", ["soft", "hard", "heuristic"])
def test_passes_of_minibatches_reach_what_more_passes_of_em_reach(assignment):
    x = clusters(6000)
    probe = torch.from_numpy(x)
    options = {"components": (4, 3), "assignment": assignment, "tolerance": 0.0, "pseudo_count": 1.0}
    by_em = float(fit(x, iterations=60, **options).log_prob(probe).mean())
    by_batches = float(fit(x, iterations=10, minibatch=600, **options).log_prob(probe).mean())
    assert by_batches > by_em - 0.05


@pytest.mark.parametrize("minibatch", [None, 300])
@pytest.mark.parametrize("assignment", ["soft", "heuristic"])
def test_interrupted_and_continued_the_bits_are_the_same(tmp_path, assignment, minibatch):
    class Killed(Exception):
        pass

    x = clusters()
    spec = {"components": (3, 2), "assignment": assignment, "minibatch": minibatch, "iterations": 7}
    whole = Session(rng())
    expected = fit(x, whole, tolerance=0.0, **spec).state()
    for at in (1, 3, 5):
        options = {"checkpoint_path": tmp_path / f"{at}", "checkpoint_seconds": 0.0}
        first = Session(rng(), **options)
        original, seen = first.record, []

        def record(original=original, seen=seen, at=at, **values):
            seen.append(values)
            if len(seen) > at:
                raise Killed
            original(**values)

        first.record = record
        with pytest.raises(Killed):
            fit(x, first, tolerance=0.0, **spec)
        again = Session(rng(), **options)
        state = fit(x, again, tolerance=0.0, **spec).state()
        assert again.history == whole.history
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_it_stops_where_the_objective_moves_less_than_the_tolerance():
    session = Session(rng())
    fit(clusters(), session, components=(3, 2), iterations=200, tolerance=0.01)
    curve = [row["log_likelihood"] for row in session.history]
    assert 2 <= len(curve) < 200
    assert abs(curve[-1] - curve[-2]) < 0.01 <= abs(curve[-2] - curve[-3])


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


# Counting and exactness


def test_free_parameters_are_those_of_the_families_that_it_contains():
    def free(components, **spec):
        return deep_gmm.Model(deep_gmm.Spec(components=components, **spec), D).free_parameters

    assert free((4,)) == gmm.Model(gmm.Spec(components=4), D).free_parameters
    assert free((1, 1, 1)) == D + D * (D + 1) // 2
    assert free((1, 3)) == free((3,))
    # The rank of the derivative of the paths' means and covariances with respect to all entries of all nodes.
    sizes = (3, 2)
    model, *_ = random_model(sizes)
    shapes = [layer.shape[0] for layer in model._inverse]

    def told(vector):
        parts = vector.split([n * D * (D + 1) for n in shapes])
        layers = []
        for part, n in zip(parts, shapes, strict=True):
            rows = part.view(n, D, D + 1)
            layers.append(_network.homogeneous(rows[..., :D], rows[..., D]))
        folded = _network.fold(list(reversed(layers)), D + 1, vector)[:, :D]
        return torch.cat([(folded[:, :, :D] @ folded[:, :, :D].mT).flatten(), folded[:, :, D].flatten()])

    at = torch.cat([torch.linalg.inv(layer)[:, :D].flatten() for layer in model._inverse])
    rank = int(torch.linalg.matrix_rank(torch.autograd.functional.jacobian(told, at), rtol=1e-9))
    assert free(sizes) == rank + 5
    assert free(sizes, weights="factorised") == rank + 2 + 1


def test_the_search_scores_what_it_found_exactly_and_takes_no_examples():
    model, *parameters = random_model((3, 2, 2))
    x = 2 * torch.randn(50, D, generator=rng(), dtype=torch.float64)
    scores, paths, _ = model.search_paths(x, 2, 1, rng(1))
    every = path_scores(x.numpy(), *parameters)
    np.testing.assert_allclose(scores.numpy(), every[np.arange(50), paths.numpy()], rtol=1e-12)
    scores, paths, evaluations = model.search_paths(x[:0], 2, 1, rng(1))
    assert (len(scores), len(paths), evaluations) == (0, 0, 0)


# Refusals


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"components": (3, 0)}, "greater than or equal to 1"),
        ({"training": "sgd", "minibatch": 100}, "'minibatch' is read where training is em only"),
        ({"training": "sgd_layerwise", "assignment": "hard"}, "'assignment' is read where training is em only"),
        ({"learning_rate": 0.1}, "'learning_rate' is read where training is by gradients only"),
        ({"decay": 0.1}, "'decay' is read with minibatches only"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(spec, said):
    with pytest.raises(ValidationError, match=said):
        deep_gmm.Spec(**spec)


def test_what_cannot_be_done_says_what_to_set():
    x = clusters()
    with pytest.raises(CannotBeDone, match="fewer components"):
        fit(x[:10], components=(3, 2))
    with pytest.raises(CannotBeDone, match="start_examples"):
        fit(x, components=(3, 2), start_examples=2)
    with pytest.raises(CannotBeDone, match="not finite"):
        fit(np.where(np.arange(len(x))[:, None] == 7, np.float32("nan"), x), components=(3, 2))
    with pytest.raises(CannotBeDone, match="ridge"):
        fit(np.concatenate([x, x[:, :1]], 1), components=(2, 2))
    repeated = np.concatenate([x, np.repeat(x[:1] + 30, 200, 0)])  # one node shrinks onto a point
    spec = {"components": (6, 2), "iterations": 40, "precision": "float64", "start": "random"}
    with pytest.raises(CannotBeDone, match="Set ridge to"):
        fit(repeated, **spec)
    assert math.isfinite(float(fit(repeated, ridge=1e-3, **spec).log_prob(torch.from_numpy(x)).mean()))
