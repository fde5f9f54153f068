"""Structured covariances and hard assignments of the Gaussian mixture."""

import math
import warnings

import gmm_structures as made
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from dgmbench.models.mixtures import _covariances
from dgmbench.training.session import Session

D, K, STRUCTURES, clusters, fit = made.D, made.K, made.STRUCTURES, made.clusters, made.fit
parameters, rng = made.parameters, made.rng


CLOSED = [name for name in STRUCTURES if name != "low_rank"]
SKLEARN = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


def factor_analyser(scatter: np.ndarray, rank: int) -> np.ndarray:
    """The covariance that EM of one factor analyser converges to from the start that the model has."""
    structure = _covariances.LowRank(rank)
    em = structure.extras(1, len(scatter), torch.zeros(1, dtype=torch.float64)) | {"log_weights": torch.zeros(1)}
    covariance = structure.begin(em, torch.from_numpy(scatter)[None], rng())
    for _ in range(500):
        covariance = structure.constrained(em, torch.ones(1), torch.from_numpy(scatter)[None])
    return covariance[0].numpy()


# One component, and the structure itself


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("covariance", CLOSED)
def test_one_component_is_the_closed_form_of_its_structure(covariance, ridge):
    x = clusters()
    _, mean, found = parameters(fit(x, components=1, iterations=1, covariance=covariance, ridge=ridge))
    sample = np.cov(x.T.astype(float), bias=True) + ridge * np.eye(D)
    expected = {
        "full": sample,
        "tied": sample,
        "diagonal": np.diag(np.diag(sample)),
        "spherical": np.eye(D) * np.trace(sample) / D,
    }[covariance]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean[0], x.astype(float).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("covariance", STRUCTURES)
def test_every_covariance_has_its_structure_in_the_data_s_own_coordinates(covariance):
    x = clusters() * np.array([0.1, 1.0, 10.0, 3.0], dtype=np.float32)
    covariances = parameters(fit(x, components=K, iterations=5, covariance=covariance, rank=1))[2]
    off_diagonal = covariances * (1 - np.eye(D))
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    if covariance in ("diagonal", "spherical"):
        np.testing.assert_allclose(off_diagonal, 0, atol=1e-12)
    else:
        assert (abs(off_diagonal).max((1, 2)) > 1e-3).all()
    if covariance == "spherical":
        np.testing.assert_allclose(variances, variances[:, :1].repeat(D, 1), rtol=1e-10)
    if covariance == "tied":
        np.testing.assert_allclose(covariances, covariances[:1].repeat(K, 0), rtol=1e-10)
    if covariance == "low_rank":
        # With one factor every 2 x 2 minor off the diagonal vanishes: w_1 w_3 w_2 w_4 = w_1 w_4 w_2 w_3.
        minors = off_diagonal[:, 0, 2] * off_diagonal[:, 1, 3] - off_diagonal[:, 0, 3] * off_diagonal[:, 1, 2]
        scale = np.sqrt(variances.prod(1))
        np.testing.assert_allclose(minors / scale, 0, atol=1e-10)


def test_free_parameters_are_counted_by_structure():
    counts = {
        name: fit(clusters(), components=K, iterations=1, covariance=name, rank=2).free_parameters
        for name in STRUCTURES
    }
    common = K - 1 + K * D
    assert counts == {
        "full": common + K * 10,
        "tied": common + 10,
        "diagonal": common + K * D,
        "spherical": common + K,
        "low_rank": common + K * 10,  # two factors and the noise reach every covariance of four dimensions
    }


# EM


@pytest.mark.parametrize("covariance", STRUCTURES)
@pytest.mark.parametrize("start", ["kmeans", "random"])
def test_the_likelihood_never_falls(covariance, start):
    session = Session(rng(3))
    fit(
        clusters(),
        session,
        components=K,
        covariance=covariance,
        rank=2,
        start=start,
        iterations=30,
        tolerance=0.0,
        precision="float64",
    )
    curve = np.array([row["log_likelihood"] for row in session.history])
    assert all(row["empty_components"] == 0 for row in session.history)
    assert np.diff(curve).min() > -1e-10
    assert curve[-1] > curve[0]


@pytest.mark.parametrize("covariance", STRUCTURES)
def test_hard_em_never_lowers_the_classification_likelihood(covariance):
    session = Session(rng(3))
    spec = {"covariance": covariance, "rank": 2, "assignment": "hard", "precision": "float64", "tolerance": 0.0}
    fit(clusters(), session, components=K, iterations=30, **spec)
    best = np.array([row["best_log_likelihood"] for row in session.history])
    assert np.diff(best).min() > -1e-10
    assert all(row["best_log_likelihood"] <= row["log_likelihood"] for row in session.history)


def test_an_iteration_of_hard_em_is_that_of_the_labels():
    x = clusters()
    spec = {"components": K, "assignment": "hard", "precision": "float64", "tolerance": 0.0}
    session = Session(rng())
    before, after = fit(x, iterations=4, **spec), fit(x, session, iterations=5, **spec)
    labels = before.assign(torch.from_numpy(x)).numpy()
    log_weights, means, covariances = parameters(after)
    for k in range(K):
        own = x[labels == k].astype(float)
        np.testing.assert_allclose(np.exp(log_weights[k]), len(own) / len(x), rtol=1e-10)
        np.testing.assert_allclose(means[k], own.mean(0), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(covariances[k], np.cov(own.T, bias=True), rtol=1e-7, atol=1e-9)
    joint = np.stack(
        [w + stats.multivariate_normal(m, c).logpdf(x.astype(float)) for w, m, c in zip(*parameters(before))], 1
    )
    assert session.history[-1]["best_log_likelihood"] == pytest.approx(joint.max(1).mean(), abs=1e-8)
    assert session.history[-1]["log_likelihood"] == pytest.approx(logsumexp(joint, axis=1).mean(), abs=1e-8)


@pytest.mark.parametrize("covariance", CLOSED)
def test_iterations_are_scikit_learn_s_from_the_same_start(covariance):
    x = clusters()
    spec = {"components": K, "covariance": covariance, "precision": "float64", "tolerance": 0.0, "start": "kmeans"}
    first, ours = fit(x, iterations=1, **spec), fit(x, iterations=6, **spec)
    log_weights, means, covariances = parameters(first)
    precisions = np.linalg.inv(covariances)
    start = {
        "full": precisions,
        "tied": precisions[0],
        "diagonal": np.diagonal(precisions, axis1=1, axis2=2),
        "spherical": precisions[:, 0, 0],
    }[covariance]
    peer = GaussianMixture(
        K,
        covariance_type=SKLEARN[covariance],
        reg_covar=0.0,
        tol=0.0,
        max_iter=5,
        weights_init=np.exp(log_weights),
        means_init=means,
        precisions_init=start,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer.fit(x.astype(float))
    np.testing.assert_allclose(ours.log_prob(torch.from_numpy(x)).numpy(), peer.score_samples(x), rtol=1e-6, atol=1e-7)


# Low rank


def test_a_factor_step_never_lowers_the_gaussian_likelihood():
    g = np.random.default_rng(0)
    roots = torch.from_numpy(g.normal(size=(5, 6, 6)))
    scatter = roots @ roots.mT + 0.1 * torch.eye(6)
    loadings, noise = torch.from_numpy(g.normal(size=(5, 6, 2))), torch.from_numpy(g.uniform(0.5, 2, size=(5, 6)))
    previous = torch.full((5,), -math.inf)
    for _ in range(100):
        covariance = loadings @ loadings.mT + torch.diag_embed(noise)
        inside = torch.linalg.solve(covariance, scatter).diagonal(dim1=1, dim2=2).sum(1)
        objective = -torch.linalg.slogdet(covariance).logabsdet - inside
        assert (objective >= previous - 1e-10).all()
        previous = objective
        loadings, noise = _covariances.factor_step(loadings, noise, scatter)


def test_a_known_factor_analyser_s_covariance_is_recovered():
    g = np.random.default_rng(1)
    loadings, noise = 2 * g.normal(size=(8, 2)), g.uniform(0.2, 1.0, size=8)
    truth = loadings @ loadings.T + np.diag(noise)
    n = 50_000
    x = (g.normal(size=(n, 2)) @ loadings.T + g.normal(size=(n, 8)) * np.sqrt(noise) + 3).astype(np.float32)
    found = parameters(fit(x, components=1, covariance="low_rank", rank=2, iterations=200, tolerance=1e-9))[2][0]
    # Five standard errors of a covariance's entries: sqrt((S_ii S_jj + S_ij^2) / n).
    error = np.sqrt((np.outer(np.diag(truth), np.diag(truth)) + truth**2) / n)
    assert (abs(found - truth) < 5 * error).all()


def test_more_factors_never_fit_worse_and_the_most_nearly_fit_as_well_as_full_covariances():
    x = clusters(d=6)
    scatter = np.cov(x.T.astype(float), bias=True)

    def likelihood(covariance: np.ndarray) -> float:
        return -0.5 * (np.linalg.slogdet(covariance)[1] + np.trace(np.linalg.solve(covariance, scatter)))

    reached = [likelihood(factor_analyser(scatter, rank)) for rank in (1, 2, 3)]
    assert reached[0] < reached[1] < reached[2] <= likelihood(scatter) + 1e-9
    # Three factors and a diagonal have as many free parameters as six dimensions have covariances.
    assert reached[2] > likelihood(scatter) - 0.02
