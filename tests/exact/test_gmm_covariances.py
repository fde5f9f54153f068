"""Structured covariances, hard assignments and minibatches of the Gaussian mixture."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.models.mixtures import _covariances, _em, _fitting, gmm
from dgmbench.training.session import Session

D, K = 4, 3
STRUCTURES = sorted(_covariances.STRUCTURES)
CLOSED = [name for name in STRUCTURES if name != "low_rank"]
SKLEARN = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(n: int = 900, spread: float = 2.0, d: int = D, seed: int = 7) -> np.ndarray:
    g = np.random.default_rng(seed)
    parts = [g.normal(size=(n // K, d)) @ g.normal(size=(d, d)) + spread * g.normal(size=d) for _ in range(K)]
    x = np.concatenate(parts).astype(np.float32)
    g.shuffle(x)
    return x


def fit(x: np.ndarray, session: Session | None = None, **spec) -> gmm.Model:
    split = Split(x)
    data = Dataset("made", "made", "real", x.shape[1:], dict.fromkeys(("train", "validation", "test"), split), {})
    model = gmm.Model(gmm.Spec(**spec), x.shape[1])
    model.fit(data, session or Session(rng()))
    return model


def parameters(model: gmm.Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    state = model.state()
    return state["log_weights"].numpy(), state["means"].numpy(), (state["factors"] @ state["factors"].mT).numpy()


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


# Minibatches


def test_one_batch_of_all_examples_without_memory_is_em():
    x = clusters()
    spec = {"components": K, "iterations": 5, "tolerance": 0.0, "precision": "float64", "start": "random"}
    plain, batched = parameters(fit(x, **spec)), parameters(fit(x, minibatch=len(x), decay=0.0, **spec))
    # The order of the examples is drawn anew, and with it every later draw; EM draws nothing after its start.
    for one, other in zip(plain, batched, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-9)


def test_a_smaller_last_minibatch_takes_its_share_of_a_step():
    assert _fitting.step_size(7, 0.5, 1.0) == pytest.approx(9**-0.5)
    # Two halves of a batch, at the same t, move as far as the whole one.
    half = _fitting.step_size(7, 0.5, 0.5)
    assert 1 - (1 - half) ** 2 == pytest.approx(_fitting.step_size(7, 0.5, 1.0))
    assert _fitting.step_size(0, 0.0, 0.3) == 1.0


def test_a_component_without_examples_takes_a_trace_of_none():
    x = torch.randn(300, D, generator=rng(), dtype=torch.float64)
    means = torch.tensor([[0.0] * D, [1e3] * D], dtype=torch.float64)
    theta = _em.natural_parameters(
        torch.tensor([0.5, 0.5]).double().log(), means, torch.eye(D).double().repeat(2, 1, 1)
    )
    _, sums = _em.Workspace(2, D, 128, torch.float64, x.device).accumulate(x, theta)
    assert torch.equal(sums[1], torch.zeros_like(sums[1]))
    assert sums[0, 0] == pytest.approx(300.0)
    nothing, none = _em.Workspace(2, D, 128, torch.float64, x.device).accumulate(x[:0], theta)
    assert nothing == 0.0
    assert not bool(none.any())


@pytest.mark.parametrize("covariance", STRUCTURES)
def test_what_parameters_imply_are_their_own_moments(covariance):
    model_spec = {"components": K, "covariance": covariance, "rank": 2, "iterations": 3, "precision": "float64"}
    log_weights, means, covariances = parameters(fit(clusters(), **model_spec))
    structure = _covariances.STRUCTURES[covariance](2)
    em = {"log_weights": torch.from_numpy(log_weights), "means": torch.from_numpy(means)}
    em["factors"] = torch.linalg.cholesky(torch.from_numpy(covariances))
    ridge = 0.01 * torch.eye(D, dtype=torch.float64)
    counts, again, scatter = structure.moments(structure.implied(em, ridge), D)
    np.testing.assert_allclose(counts, np.exp(log_weights), rtol=1e-12)
    np.testing.assert_allclose(again, means, rtol=1e-12)
    np.testing.assert_allclose(scatter + ridge, covariances, rtol=1e-9, atol=1e-10)  # the M-step adds it


@pytest.mark.parametrize("covariance", STRUCTURES)
def test_passes_of_minibatches_reach_what_more_passes_of_em_reach(covariance):
    x = clusters(9000, spread=3.0)
    probe = torch.from_numpy(x)
    options = {"components": K, "covariance": covariance, "rank": 2, "tolerance": 0.0}
    by_em = float(fit(x, iterations=100, **options).log_prob(probe).mean())
    by_batches = float(fit(x, iterations=10, minibatch=300, **options).log_prob(probe).mean())
    assert by_batches > by_em - 0.02


@pytest.mark.parametrize("options", [{"minibatch": 200}, {"covariance": "low_rank", "rank": 2}, {"assignment": "hard"}])
def test_interrupted_and_continued_the_bits_are_the_same(tmp_path, options):
    class Killed(Exception):
        pass

    x, spec = clusters(), {"components": K, "iterations": 6, "tolerance": 0.0} | options
    whole = Session(rng())
    expected = fit(x, whole, **spec).state()
    kept = {"checkpoint_path": tmp_path / "kept", "checkpoint_seconds": 0.0}
    first = Session(rng(), **kept)
    original = first.record

    def record(**values):
        if first.step == 3:
            raise Killed
        original(**values)

    first.record = record
    with pytest.raises(Killed):
        fit(x, first, **spec)
    again = Session(rng(), **kept)
    state = fit(x, again, **spec).state()
    assert again.history == whole.history
    assert all(torch.equal(state[name], value) for name, value in expected.items())


# Empty components, units and refusals


@pytest.mark.parametrize("minibatch", [None, 100])
@pytest.mark.parametrize("covariance", STRUCTURES)
def test_empty_components_are_reseeded_and_reported(covariance, minibatch):
    x = np.concatenate([clusters(300), np.full((1, D), 500.0, dtype=np.float32)])
    session = Session(rng(2))
    spec = {"components": 12, "covariance": covariance, "rank": 2, "minibatch": minibatch, "ridge": 0.01}
    model = fit(x, session, iterations=10, tolerance=0.0, **spec)
    if covariance not in ("tied", "diagonal", "spherical"):  # those are content with fewer examples than the outlier's
        assert sum(row["empty_components"] for row in session.history) > 0
    assert float(np.exp(parameters(model)[0]).sum()) == pytest.approx(1)
    assert np.isfinite(model.log_prob(torch.from_numpy(x)).numpy()).all()


@pytest.mark.parametrize("covariance", STRUCTURES)
def test_the_ridge_is_in_the_data_s_units_squared(covariance):
    x = clusters()
    spec = {"components": K, "covariance": covariance, "rank": 2, "iterations": 4, "precision": "float64"}
    plain = parameters(fit(x, ridge=0.2, **spec))
    scaled = parameters(fit(10 * x, ridge=0.2 * 100, **spec))
    np.testing.assert_allclose(scaled[1], 10 * plain[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scaled[2], 100 * plain[2], rtol=1e-4, atol=1e-3)


def test_what_cannot_be_done_says_what_to_set():
    x = clusters()
    with pytest.raises(CannotBeDone, match="rank below 4, not 4"):
        fit(x, covariance="low_rank", rank=4)
    with pytest.raises(CannotBeDone, match="fewer components"):
        fit(x[:5], components=3, covariance="diagonal")
    constant = x.copy()
    constant[:, 1] = 1.0
    with pytest.raises(CannotBeDone, match="set ridge"):
        fit(constant, components=2, covariance="diagonal")
    assert np.isfinite(parameters(fit(constant, components=2, covariance="diagonal", ridge=1e-3))[2]).all()
