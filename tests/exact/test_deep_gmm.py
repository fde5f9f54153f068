"""The Deep GMM against scipy path by path, the mixture of one layer, its own samples, and Bayes by quadrature."""

import math

import deep_gmms as made
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from scipy.special import logsumexp

from dgmbench.errors import CannotBeDone
from dgmbench.models.density import gaussian
from dgmbench.models.mixtures import _deep_sgd, _network, deep_gmm, gmm
from dgmbench.models.mixtures._search import PathSearch
from dgmbench.training.session import Session

D, clusters, fit, path_scores, random_model = made.D, made.clusters, made.fit, made.path_scores, made.random_model
rng = made.rng


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
