"""The Gaussian mixture against closed forms, scipy, and EM written out plainly."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.models.density import gaussian
from dgmbench.models.mixtures import _em, _fitting, gmm
from dgmbench.training.session import Session

D, K = 4, 3


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(n: int = 900, spread: float = 2.0) -> np.ndarray:
    g = np.random.default_rng(7)
    parts = [g.normal(size=(n // K, D)) @ g.normal(size=(D, D)) + spread * g.normal(size=D) for _ in range(K)]
    x = np.concatenate(parts).astype(np.float32)
    g.shuffle(x)
    return x


def fit(x: np.ndarray, session: Session | None = None, module=gmm, **spec):
    split = Split(x)
    data = Dataset("made", "made", "real", x.shape[1:], dict.fromkeys(("train", "validation", "test"), split), {})
    model = module.Model(module.Spec(**spec), x.shape[1])
    model.fit(data, session or Session(rng()))
    return model


def parameters(model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    state = model.state()
    return state["log_weights"].numpy(), state["means"].numpy(), (state["factors"] @ state["factors"].mT).numpy()


def scores(x: np.ndarray, log_weights, means, covariances) -> np.ndarray:
    """log pi_k N(x; mu_k, Sigma_k) by scipy: (n, k)."""
    terms = zip(log_weights, means, covariances, strict=True)
    return np.stack([w + stats.multivariate_normal(m, c).logpdf(x) for w, m, c in terms], 1)


def test_log_prob_and_assign_are_scipys():
    x = clusters()
    model = fit(x, components=K, iterations=5)
    expected = scores(x.astype(float), *parameters(model))
    np.testing.assert_allclose(model.log_prob(torch.from_numpy(x)).numpy(), logsumexp(expected, axis=1), rtol=1e-10)
    np.testing.assert_array_equal(model.assign(torch.from_numpy(x)).numpy(), expected.argmax(1))


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_one_component_is_the_closed_form_gaussian(ridge):
    x = clusters()
    mixture = fit(x, components=1, iterations=1, ridge=ridge, precision="float64")
    closed = fit(x, module=gaussian, ridge=ridge)
    probe = torch.from_numpy(x[:200])
    torch.testing.assert_close(mixture.log_prob(probe), closed.log_prob(probe), rtol=1e-9, atol=1e-9)


def test_features_give_the_log_density():
    g = np.random.default_rng(1)
    means, log_weights = torch.tensor(g.normal(size=(K, D))), torch.log_softmax(torch.tensor(g.normal(size=K)), 0)
    roots = torch.tensor(g.normal(size=(K, D, D)))
    factors = torch.linalg.cholesky(roots @ roots.mT + 0.1 * torch.eye(D))
    z = torch.tensor(g.normal(size=(37, D)))
    work = _em.Workspace(K, D, 10, torch.float64, z.device)
    theta = _em.natural_parameters(log_weights, means, factors)
    expected = logsumexp(scores(z.numpy(), log_weights.numpy(), means.numpy(), (factors @ factors.mT).numpy()), axis=1)
    np.testing.assert_allclose(work.log_prob(z, theta).numpy(), expected, rtol=1e-10)


def plain_em(x, log_weights, means, covariances, ridge):
    """One iteration of EM as in Bishop, equations 9.23 to 9.26."""
    joint = scores(x, log_weights, means, covariances)
    r = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    counts = r.sum(0)
    means = (r.T @ x) / counts[:, None]
    covariances = [(r[:, k, None] * (x - means[k])).T @ (x - means[k]) / counts[k] for k in range(len(counts))]
    return np.log(counts / len(x)), means, np.stack(covariances) + ridge * np.eye(x.shape[1])


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_an_iteration_is_plain_em(monkeypatch, precision, tolerance, ridge):
    monkeypatch.setattr(_fitting, "CHUNK", 101)  # does not divide 900: the last chunk is smaller
    x = clusters()
    spec = {"components": K, "tolerance": 0.0, "ridge": ridge, "precision": precision}
    before, after = (parameters(fit(x, iterations=i, **spec)) for i in (3, 4))
    for mine, plain in zip(after, plain_em(x.astype(float), *before, ridge), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("start", ["kmeans", "random"])
def test_the_log_likelihood_never_falls_and_is_recorded_in_data_space(start):
    x = clusters()
    session = Session(rng(3))
    spec = {"components": K, "start": start, "tolerance": 0.0, "precision": "float64"}
    fit(x, session, iterations=25, **spec)
    curve = np.array([row["log_likelihood"] for row in session.history])
    assert len(curve) == 25
    assert all(row["empty_components"] == 0 for row in session.history)
    assert np.diff(curve).min() > -1e-10
    reached = fit(x, Session(rng(3)), iterations=24, **spec).log_prob(torch.from_numpy(x)).mean()
    assert curve[-1] == pytest.approx(float(reached), abs=1e-9)
    assert session.history[-1]["validation_log_likelihood"] == pytest.approx(float(reached), abs=1e-9)


def test_an_affine_change_of_the_data_moves_the_log_density_by_its_jacobian():
    x = clusters()
    g = np.random.default_rng(5)
    a, b = g.normal(size=(D, D)), 50 * g.normal(size=D)
    moved = (x.astype(float) @ a.T + b).astype(np.float32)
    spec = {"components": K, "iterations": 8, "start": "random", "precision": "float64"}
    plain, changed = fit(x, **spec), fit(moved, **spec)
    shift = changed.log_prob(torch.from_numpy(moved)) - plain.log_prob(torch.from_numpy(x))
    # Random starts are isotropic in whitened space, whatever its rotation: EM follows the change of coordinates.
    np.testing.assert_allclose(shift.numpy(), -np.linalg.slogdet(a)[1], atol=5e-3)


def test_float32_agrees_with_float64():
    x = clusters(3000)
    spec = {"components": K, "iterations": 20, "tolerance": 0.0, "start": "random"}
    session = Session(rng())
    single, double = fit(x, session, **spec), fit(x, precision="float64", **spec)
    probe = torch.from_numpy(x)
    assert float(single.log_prob(probe).mean()) == pytest.approx(float(double.log_prob(probe).mean()), abs=1e-4)
    assert max(row["rounding"] for row in session.history) < 1e-4


def test_it_stops_early_with_its_history_and_resumes_after_the_stop(tmp_path):
    x = clusters()
    spec = {"components": K, "iterations": 150, "tolerance": 0.01}
    whole = Session(rng(), checkpoint_path=tmp_path / "kept", checkpoint_seconds=0.0)
    model = fit(x, whole, **spec)
    curve = [row["log_likelihood"] for row in whole.history]
    assert [row["step"] for row in whole.history] == list(range(1, len(curve) + 1))
    assert 2 <= len(curve) < 150
    assert abs(curve[-1] - curve[-2]) < 0.01 <= abs(curve[-2] - curve[-3])
    again = Session(rng(), checkpoint_path=tmp_path / "kept", checkpoint_seconds=0.0)
    same = fit(x, again, **spec)
    assert again.history == whole.history
    assert all(torch.equal(same.state()[key], value) for key, value in model.state().items())


def test_empty_components_are_counted_and_take_half_of_the_largest():
    x = np.concatenate([clusters(300), np.full((1, D), 500.0, dtype=np.float32)])
    session = Session(rng(2))
    model = fit(x, session, components=12, iterations=10, tolerance=0.0, ridge=0.01)
    assert sum(row["empty_components"] for row in session.history) > 0
    weights = parameters(model)[0]
    assert float(np.exp(weights).sum()) == pytest.approx(1)
    assert np.isfinite(model.log_prob(torch.from_numpy(x)).numpy()).all()


def test_what_cannot_be_done_says_what_to_set():
    x = clusters()
    with pytest.raises(CannotBeDone, match="fewer components"):
        fit(x[:10], components=3)
    with pytest.raises(CannotBeDone, match="ridge"):
        fit(np.concatenate([x, x[:, :1]], 1), components=2)
    repeated = np.concatenate([x, np.repeat(x[:1] + 30, 200, 0)])  # one component shrinks onto a point
    spec = {"components": 4, "iterations": 30, "precision": "float64"}
    with pytest.raises(CannotBeDone, match="Set ridge to"):
        fit(repeated, **spec)
    assert math.isfinite(float(fit(repeated, ridge=1e-3, **spec).log_prob(torch.from_numpy(x)).mean()))


def test_components_too_narrow_for_float32_are_refused():
    g = np.random.default_rng(0)
    x = (g.integers(0, 2, size=(600, 1)) + 1e-5 * g.normal(size=(600, 1))).astype(np.float32)
    with pytest.raises(CannotBeDone, match="precision to float64"):
        fit(x, components=2, iterations=30)
    model = fit(x, components=2, iterations=30, precision="float64")
    expected = logsumexp(scores(x.astype(float), *parameters(model)), axis=1)
    np.testing.assert_allclose(model.log_prob(torch.from_numpy(x)).numpy(), expected, rtol=1e-6)


def test_samples_come_from_the_components_in_their_proportions():
    model = fit(clusters(spread=60.0), components=K, iterations=30)
    log_weights, means, _ = parameters(model)
    n = 30_000
    x = model.sample(n, rng(1))
    share = torch.bincount(model.assign(x), minlength=K).double().numpy() / n
    # Clusters do not overlap; 5 standard errors over 3 shares: false alarms below 2e-6.
    np.testing.assert_allclose(share, np.exp(log_weights), atol=5 * math.sqrt(0.25 / n))
    expected = np.exp(log_weights) @ means
    se = x.double().std(0).numpy() / math.sqrt(n)
    assert np.abs((x.double().mean(0).numpy() - expected) / se).max() < 5


def test_the_posterior_mean_is_bayes_by_quadrature_and_the_mode_a_component_s_wiener_estimate():
    g = np.random.default_rng(0)
    x = np.concatenate([g.normal(-2, 0.5, 300), g.normal(1, 1.0, 300)]).astype(np.float32)[:, None]
    model, sd = fit(x, components=2, iterations=30), 0.7
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    y = torch.tensor([[-3.0], [-0.6], [0.0], [2.5]], dtype=torch.float64)
    joint = model.log_prob(grid[:, None])[None] - 0.5 * ((y - grid) / sd).square()
    expected = (joint.softmax(1) * grid).sum(1, keepdim=True)
    torch.testing.assert_close(model.posterior_mean(y, sd), expected, rtol=1e-8, atol=1e-8)
    log_weights, means, covariances = parameters(model)
    noisy = scores(y.numpy(), log_weights, means, covariances + sd**2).argmax(1)
    gain = covariances[noisy, 0] / (covariances[noisy, 0] + sd**2)
    np.testing.assert_allclose(model.posterior_mode(y, sd), means[noisy] + gain * (y.numpy() - means[noisy]), rtol=1e-8)


def test_with_one_component_the_posterior_mode_is_the_posterior_mean():
    x = clusters()
    model, y = fit(x, components=1, iterations=1), torch.from_numpy(x[:50])
    torch.testing.assert_close(model.posterior_mode(y, 0.4), model.posterior_mean(y, 0.4))
