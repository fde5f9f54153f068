"""The Student-t mixture's training: degrees of freedom by root finding, and EM against EM written out plainly."""

import math

import numpy as np
import pytest
import student_t as made
import torch
from scipy import optimize, special, stats
from scipy.special import logsumexp

from dgmbench.models.mixtures import _fitting, _student, student_t_mixture
from dgmbench.training.session import Session

D, K, fit, heavy_clusters, model_of = made.D, made.K, made.fit, made.heavy_clusters, made.model_of
parameters, rng, scores = made.parameters, made.rng, made.scores


# Degrees of freedom


def test_the_root_finder_agrees_with_brent_s_method_and_stops_at_its_limits():
    degrees = np.geomspace(_student.LEAST_DEGREES * 1.001, _student.MOST_DEGREES * 0.999, 200)
    target = np.log(degrees / 2) - special.digamma(degrees / 2)
    found = _student.solve_degrees(torch.tensor(target)).numpy()
    np.testing.assert_allclose(found, degrees, rtol=1e-7)

    def brent(c):
        return optimize.brentq(lambda v: math.log(v / 2) - special.digamma(v / 2) - c, 0.5, 1e5, xtol=1e-12)

    np.testing.assert_allclose(found[::10], [brent(c) for c in target[::10]], rtol=1e-7)
    outside = torch.tensor([1e-7, 0.0, -1.0, 10.0, 1e9], dtype=torch.float64)
    expected = [_student.MOST_DEGREES] * 3 + [_student.LEAST_DEGREES] * 2
    np.testing.assert_allclose(_student.solve_degrees(outside).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("truth", "d"), [(2.5, 1), (4.0, 3), (12.0, 8)])
def test_known_degrees_of_freedom_are_recovered_from_samples(truth, d):
    n = 20_000
    g = np.random.default_rng(3)
    root = g.normal(size=(d, d)) + np.eye(d)
    x = (g.normal(size=(n, d)) * np.sqrt(truth / g.chisquare(truth, (n, 1)))) @ root.T + g.normal(size=d)
    x = x.astype(np.float32)
    model = fit(x, components=1, iterations=200, tolerance=1e-10, precision="float64")
    found = float(model.state()["degrees"][0])
    # Fisher's information for nu with mu and S known is the largest there is: its standard error is a lower bound.
    nu = truth
    information = 0.25 * (special.polygamma(1, nu / 2) - special.polygamma(1, (nu + d) / 2))
    information -= d * (nu + d + 4) / (2 * nu * (nu + d) * (nu + d + 2))
    scale = (root @ root.T)[0, 0]
    assert abs(found - truth) < 8 / math.sqrt(n * information)
    assert float((model.state()["factors"] @ model.state()["factors"].mT)[0, 0, 0]) == pytest.approx(scale, rel=0.06)


def test_two_overlapping_components_recover_their_degrees_weights_and_scales():
    given = (
        np.log([0.3, 0.7]),
        np.array([[0.0, 0.0], [3.0, 1.0]]),
        np.array([np.eye(2), 0.3 * np.eye(2)]),
        [2.0, 15.0],
    )
    x = model_of(*given).sample(60_000, rng(2)).numpy()
    model = fit(x, components=2, iterations=300, tolerance=1e-9, precision="float64")
    log_weights, means, scales, degrees = parameters(model)
    order = log_weights.argsort()
    np.testing.assert_allclose(np.exp(log_weights[order]), [0.3, 0.7], atol=0.01)
    np.testing.assert_allclose(means[order], given[1], atol=0.05)
    np.testing.assert_allclose(scales[order], given[2], atol=0.06)
    assert degrees[order[0]] == pytest.approx(2.0, rel=0.06)
    assert degrees[order[1]] == pytest.approx(15.0, rel=0.25)


# EM


def plain_step(x, log_weights, means, scales, degrees, ridge):
    """One iteration of PX-EM as in the module's equations, nu_k by scipy's root finder."""
    joint = scores(x, log_weights, means, scales, degrees)
    r = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    d, counts, out = x.shape[1], r.sum(0), ([], [], [])
    for k, nu in enumerate(degrees):
        centred = x - means[k]
        delta = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(scales[k]), centred)
        u = (nu + d) / (nu + delta)
        log_u = special.digamma((nu + d) / 2) - np.log((nu + delta) / 2)
        w = r[:, k] * u
        mean = w @ x / w.sum()
        out[0].append(mean)
        out[1].append((w[:, None] * (x - mean)).T @ (x - mean) / w.sum() + ridge * np.eye(d))
        c = math.log(w.sum() / counts[k]) - r[:, k] @ log_u / counts[k]
        out[2].append(optimize.brentq(lambda v, c=c: math.log(v / 2) - special.digamma(v / 2) - c, 1e-3, 1e7))
    return np.log(counts / len(x)), *map(np.stack, out)


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_an_iteration_is_the_docstring_s(monkeypatch, precision, tolerance, ridge):
    monkeypatch.setattr(_fitting, "CHUNK", 101)  # does not divide 900: the last chunk is smaller
    x = heavy_clusters()
    spec = {"components": K, "tolerance": 0.0, "ridge": ridge, "precision": precision}
    before, after = (parameters(fit(x, iterations=i, **spec)) for i in (3, 4))
    for mine, plain in zip(after, plain_step(x.astype(float), *before, ridge), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("degrees", [None, 2.0])
@pytest.mark.parametrize("start", ["kmeans", "random"])
def test_the_log_likelihood_never_falls_and_is_recorded_in_data_space(start, degrees):
    x = heavy_clusters()
    spec = {"components": K, "start": start, "tolerance": 0.0, "precision": "float64", "degrees": degrees}
    session = Session(rng(3))
    fit(x, session, iterations=60, **spec)
    curve = np.array([row["log_likelihood"] for row in session.history])
    assert len(curve) == 60
    assert all(row["empty_components"] == 0 for row in session.history)
    assert np.diff(curve).min() > -1e-10
    assert curve[-1] > curve[0] + 0.01
    reached = fit(x, Session(rng(3)), iterations=59, **spec).log_prob(torch.from_numpy(x)).mean()
    assert curve[-1] == pytest.approx(float(reached), abs=1e-9)
    assert session.history[-1]["validation_log_likelihood"] == pytest.approx(float(reached), abs=1e-9)


def test_the_likelihood_does_not_fall_where_degrees_run_into_a_limit():
    g = np.random.default_rng(0)
    light = g.uniform(-1, 1, size=(600, 2)).astype(np.float32)  # lighter tails than any t: nu grows to its limit
    heavy = (g.normal(size=(600, 2)) * g.gamma(0.1, size=(600, 1)) ** -1.0).clip(-1e6, 1e6).astype(np.float32)
    for x, limit in ((light, _student.MOST_DEGREES), (heavy, _student.LEAST_DEGREES)):
        session = Session(rng())
        start = {"start_degrees": limit}
        model = fit(x, session, components=1, iterations=40, tolerance=0.0, precision="float64", **start)
        curve = np.array([row["log_likelihood"] for row in session.history])
        assert np.diff(curve).min() > -1e-9
        assert float(model.state()["degrees"][0]) == pytest.approx(limit, rel=1e-6)


def test_a_fixed_point_is_stationary_in_every_parameter():
    x = heavy_clusters()
    spec = {"components": 2, "iterations": 4000, "tolerance": 1e-15, "precision": "float64"}
    model = fit(x, **spec)
    state, probe = model.state(), torch.from_numpy(x)

    def moved(name, direction, size):
        changed = {key: value.clone() for key, value in state.items()}
        if name == "factors":  # along L + h L A: a relative change of the scale matrix
            changed["factors"] = torch.linalg.cholesky(
                (f := state["factors"] @ (torch.eye(D, dtype=torch.float64) + size * direction)) @ f.mT
            )
        elif name == "degrees":
            changed["degrees"] = state["degrees"] * (size * direction).exp()
        elif name == "log_weights":
            changed["log_weights"] = (state["log_weights"] + size * direction).log_softmax(0)
        else:
            changed["means"] = state["means"] + size * direction
        other = student_t_mixture.Model(model.spec, D)
        other.load_state(changed)
        return float(other.log_prob(probe).mean())

    shapes = {"log_weights": (2,), "means": (2, D), "factors": (2, D, D), "degrees": (2,)}
    h = 1e-4
    for name, shape in shapes.items():
        for seed in range(5):
            direction = torch.randn(shape, generator=rng(seed), dtype=torch.float64)
            slope = (moved(name, direction, h) - moved(name, direction, -h)) / (2 * h)
            curvature = (
                abs(moved(name, direction, h) + moved(name, direction, -h) - 2 * moved(name, direction, 0)) / h**2
            )
            assert abs(slope) < 2e-6, name
            assert curvature > 1e-4, name  # the direction matters, so a slope near zero says something
    # And where it is not: the same differences notice a step away.
    away = {**state, "degrees": state["degrees"] * 1.2}
    state = away
    assert abs(moved("degrees", torch.ones(2), h) - moved("degrees", torch.ones(2), -h)) / (2 * h) > 1e-3


def test_at_a_fixed_point_the_weights_of_every_component_average_to_one():
    x = heavy_clusters()
    model = fit(x, components=2, iterations=4000, tolerance=1e-15, precision="float64")
    log_weights, means, scales, degrees = parameters(model)
    joint = scores(x.astype(float), log_weights, means, scales, degrees)
    r = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    centred = x.astype(float)[:, None] - means
    u = (degrees + D) / (degrees + np.einsum("nki,kij,nkj->nk", centred, np.linalg.inv(scales), centred))
    np.testing.assert_allclose((r * u).sum(0) / r.sum(0), 1, rtol=1e-6)


def test_parameter_expansion_is_faster_than_plain_em_and_as_good():
    x = heavy_clusters(degrees=1.5)[:, :2]

    def plain(x, mean, scale, nu):
        centred = x - mean
        u = (nu + 2) / (nu + np.einsum("ni,ij,nj->n", centred, np.linalg.inv(scale), centred))
        mean = u @ x / u.sum()
        return mean, (u[:, None] * (x - mean)).T @ (x - mean) / len(x)

    exact = x.astype(float)
    best = float(
        fit(x, components=1, degrees=1.0, iterations=500, tolerance=1e-14, precision="float64")
        .log_prob(torch.from_numpy(x))
        .mean()
    )
    few = float(
        fit(x, components=1, degrees=1.0, iterations=8, tolerance=0.0, precision="float64", start="random")
        .log_prob(torch.from_numpy(x))
        .mean()
    )
    state = exact[0], np.cov(exact.T)
    for _ in range(8):
        state = plain(exact, *state, 1.0)
    slow = stats.multivariate_t(*state, df=1.0).logpdf(exact).mean()
    for _ in range(500):
        state = plain(exact, *state, 1.0)
    assert stats.multivariate_t(*state, df=1.0).logpdf(exact).mean() == pytest.approx(best, abs=1e-9)
    assert best - few < 0.1 * (best - slow)
