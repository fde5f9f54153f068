"""Independent dimensions, the Gaussian and the controls, against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import exact_likelihood
from dgmbench.estimators.base import Workbench
from dgmbench.models.controls import kmeans, training_set
from dgmbench.models.density import _gaussian, gaussian, independent
from dgmbench.training.session import Session


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dataset(x: np.ndarray, values: str = "real", binarize: bool = False) -> Dataset:
    split = Split(x.astype(np.float32), binarize=binarize)
    return Dataset("made", "made", values, x.shape[1:], dict.fromkeys(("train", "validation", "test"), split), {})


def fit(module, x: np.ndarray, values: str = "real", binarize: bool = False, **spec):
    model = module.Model(module.Spec(**spec), x.shape[1])
    model.fit(dataset(x, values, binarize), Session(rng()))
    return model


def correlated(n: int = 400, d: int = 5) -> np.ndarray:
    g = np.random.default_rng(3)
    return (g.normal(size=(n, d)) @ g.normal(size=(d, d)) + 3.0).astype(np.float32)


def test_bernoulli_rates_are_smoothed_counts():
    x = np.array([[1, 0], [1, 0], [0, 0], [1, 0]])
    model = fit(independent, x, "binary", pseudo_count=0.5)
    rates = np.array([3.5, 0.5]) / 5
    expected = stats.bernoulli(rates).logpmf(x).sum(1)
    np.testing.assert_allclose(model.log_prob(torch.tensor(x)).numpy(), expected, rtol=1e-12)


def test_without_pseudo_counts_an_unseen_value_has_no_probability_and_the_estimator_says_so():
    model = fit(independent, np.array([[1, 0], [0, 0]]), "binary", pseudo_count=0)
    assert float(model.log_prob(torch.tensor([[1.0, 0.0]]))) == pytest.approx(-math.log(2))
    assert float(model.log_prob(torch.tensor([[1.0, 1.0]]))) == -math.inf
    bench = Workbench(rng())
    with pytest.raises(CannotBeDone, match="1 of 1"):
        exact_likelihood.estimate(model, dataset(np.array([[1.0, 1.0]]), "binary"), exact_likelihood.Settings(), bench)


def test_data_binarized_at_each_draw_give_their_grey_means():
    grey = np.random.default_rng(0).random((50, 3))
    model = fit(independent, grey, "binary", binarize=True, pseudo_count=0)
    np.testing.assert_allclose(model.state()["mean"], grey.astype(np.float32).astype(float).mean(0), rtol=1e-12)


@pytest.mark.parametrize("values", ["unit", "real"])
def test_independent_gaussians_are_scipys(values):
    x = correlated()
    model = fit(independent, x, values)
    wide = x.astype(float)
    expected = stats.norm(wide.mean(0), wide.std(0)).logpdf(wide).sum(1)
    np.testing.assert_allclose(model.log_prob(torch.from_numpy(x)).numpy(), expected, rtol=1e-9)


def test_the_family_survives_storage():
    stored = fit(independent, np.array([[1, 0], [0, 1]]), "binary").state()
    again = independent.Model(independent.Spec(), 2)
    again.load_state(stored)
    assert set(again.sample(50, rng()).unique().tolist()) == {0.0, 1.0}


def test_a_constant_dimension_takes_the_floor_or_is_refused():
    x = np.array([[0.0, 1.0], [0.0, 2.0]])
    assert float(fit(independent, x, variance_floor=0.25).state()["variance"][0]) == 0.25
    with pytest.raises(CannotBeDone, match="variance_floor"):
        fit(independent, x, variance_floor=0.0)


def test_the_gaussian_is_scipys_with_its_ridge(monkeypatch):
    monkeypatch.setattr(_gaussian, "_ELEMENTS_AT_ONCE", 35)  # 7 rows at once: the chunks must add up
    x = correlated()
    model = fit(gaussian, x, ridge=0.3)
    wide = x.astype(float)
    covariance = np.cov(wide.T, bias=True) + 0.3 * np.eye(5)
    expected = stats.multivariate_normal(wide.mean(0), covariance).logpdf(wide)
    np.testing.assert_allclose(model.log_prob(torch.from_numpy(x)).numpy(), expected, rtol=1e-9)


def test_at_maximum_likelihood_the_mean_log_prob_is_minus_the_entropy():
    x = correlated()
    model = fit(gaussian, x)
    log_det = np.linalg.slogdet(2 * np.pi * np.e * np.cov(x.astype(float).T, bias=True))[1]
    assert float(model.log_prob(torch.from_numpy(x)).mean()) == pytest.approx(-0.5 * log_det, rel=1e-10)


def test_moments_keep_their_precision_far_from_the_origin():
    x = correlated() + np.float32(4096)
    mean, covariance = _gaussian.mean_and_covariance(dataset(x).train, torch.device("cpu"))
    np.testing.assert_allclose(mean, x.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(x.astype(float).T, bias=True), rtol=1e-9)


def test_a_singular_covariance_is_refused_with_the_ridge_to_set():
    x = correlated()
    dependent = np.concatenate([x, -x.sum(1, keepdims=True)], 1)  # as the last pixel of a patch of zero mean
    with pytest.raises(CannotBeDone, match="set ridge to about"):
        fit(gaussian, dependent)
    assert math.isfinite(float(fit(gaussian, dependent, ridge=1e-3).log_prob(torch.from_numpy(dependent)).mean()))


def test_gaussian_samples_have_its_moments():
    x = correlated()
    model, n = fit(gaussian, x), 40_000
    mean, factor = model.state()["mean"], model.state()["factor"]
    whitened = torch.linalg.solve_triangular(factor, (model.sample(n, rng(1)).double() - mean).T, upper=False)
    # Five standard errors of means (1) and products (at most sqrt 2) over 20 numbers: false alarms below 2e-5.
    assert float(whitened.mean(1).abs().max()) < 5 / math.sqrt(n)
    assert float((whitened @ whitened.T / n - torch.eye(5)).abs().max()) < 5 * math.sqrt(2 / n)


def test_the_training_set_is_resampled_without_replacement_as_long_as_it_lasts():
    x = np.arange(30.0)[:, None]
    model = fit(training_set, x, examples=20)
    stored = model.state()["examples"]
    assert len(stored.unique()) == 20
    assert torch.equal(model.sample(20, rng(1)).sort(0).values, stored.sort(0).values)
    assert set(model.sample(100, rng(1)).flatten().tolist()) <= set(stored.flatten().tolist())
    assert len(fit(training_set, x).state()["examples"]) == 30


def test_kmeans_finds_separate_clusters_and_assigns_to_the_nearest():
    g = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = (centres[np.repeat([0, 1, 2], 40)] + 0.1 * g.normal(size=(120, 2))).astype(np.float32)
    model = fit(kmeans, x, centroids=3, restarts=3)
    centroids = model.state()["centroids"]
    expected = np.stack([x[i * 40 : (i + 1) * 40].mean(0) for i in range(3)])
    np.testing.assert_allclose(
        centroids[centroids[:, 0].sub(20 * centroids[:, 1]).argsort()], expected[[2, 0, 1]], atol=1e-5
    )
    distance = ((x[:, None] - centroids.numpy()) ** 2).sum(2)
    np.testing.assert_array_equal(model.assign(torch.from_numpy(x)).numpy(), distance.argmin(1))
    assert torch.equal(model.sample(3, rng()).sort(0).values, centroids.sort(0).values)


def test_kmeans_keeps_the_best_restart():
    x = np.random.default_rng(1).normal(size=(200, 2)).astype(np.float32)
    model, session = kmeans.Model(kmeans.Spec(centroids=8, iterations=3, restarts=6), 2), Session(rng())
    model.fit(dataset(x), session)
    distortions = [row["distortion"] for row in session.history]
    assert len(set(distortions)) > 1
    distance = ((x[:, None] - model.state()["centroids"].numpy()) ** 2).sum(2).min(1).mean()
    assert distance == pytest.approx(min(distortions), rel=1e-3)


def test_more_centroids_than_examples_are_refused():
    with pytest.raises(CannotBeDone, match="5 centroids"):
        fit(kmeans, np.zeros((3, 2)), centroids=5)
