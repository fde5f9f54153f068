"""The Student-t mixture against scipy, closed forms, quadrature, EM written out plainly, and the Gaussian mixture."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats
from scipy.special import logsumexp

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.models.mixtures import _fitting, _student, gmm, student_t_mixture
from dgmbench.training.session import Session

D, K = 4, 3


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def heavy_clusters(n: int = 900, spread: float = 3.0, degrees: float = 3.0, seed: int = 7) -> np.ndarray:
    g = np.random.default_rng(seed)
    scale = np.sqrt(degrees / g.chisquare(degrees, size=(K, n // K, 1)))
    parts = [
        scale[k] * g.normal(size=(n // K, D)) @ g.normal(size=(D, D)) + spread * g.normal(size=D) for k in range(K)
    ]
    x = np.concatenate(parts).astype(np.float32)
    g.shuffle(x)
    return x


def dataset(x: np.ndarray) -> Dataset:
    split = Split(x)
    return Dataset("made", "made", "real", x.shape[1:], dict.fromkeys(("train", "validation", "test"), split), {})


def fit(x: np.ndarray, session: Session | None = None, module=student_t_mixture, **spec):
    model = module.Model(module.Spec(**spec), x.shape[1])
    model.fit(dataset(x), session or Session(rng()))
    return model


def model_of(log_weights, means, scales, degrees):
    """A mixture with given parameters: (k,), (k, d), (k, d, d), (k,)."""
    model = student_t_mixture.Model(student_t_mixture.Spec(components=len(means)), len(means[0]))
    tensors = [torch.tensor(np.asarray(value), dtype=torch.float64) for value in (log_weights, means, scales, degrees)]
    model.load_state(
        dict(zip(("log_weights", "means", "factors", "degrees"), tensors))
        | {"factors": torch.linalg.cholesky(tensors[2])}
    )
    return model


def parameters(model) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    state = model.state()
    scales = state["factors"] @ state["factors"].mT
    return tuple(t.numpy() for t in (state["log_weights"], state["means"], scales, state["degrees"]))


def random_parameters(d: int, k: int = K, seed: int = 1):
    g = np.random.default_rng(seed)
    roots = g.normal(size=(k, d, d))
    scales = roots @ roots.transpose(0, 2, 1) + 0.2 * np.eye(d)
    return np.log(g.dirichlet(5 * np.ones(k))), 2 * g.normal(size=(k, d)), scales, np.array([0.8, 3.0, 40.0])[:k]


def scores(x: np.ndarray, log_weights, means, scales, degrees) -> np.ndarray:
    """log pi_k t(x; mu_k, S_k, nu_k) by scipy: (n, k)."""
    terms = zip(log_weights, means, scales, degrees, strict=True)
    return np.stack([w + np.atleast_1d(stats.multivariate_t(m, s, df=v).logpdf(x)) for w, m, s, v in terms], 1)


# The density


def test_log_prob_and_assign_are_scipys():
    given = random_parameters(D)
    model, x = model_of(*given), 5 * torch.randn(200, D, generator=rng(), dtype=torch.float64)
    expected = scores(x.numpy(), *given)
    np.testing.assert_allclose(model.log_prob(x).numpy(), logsumexp(expected, axis=1), rtol=1e-11)
    np.testing.assert_array_equal(model.assign(x).numpy(), expected.argmax(1))


def test_the_e_step_s_features_give_the_log_density_and_its_weights():
    log_weights, means, scales, degrees = random_parameters(D)
    em = dict(
        zip(("log_weights", "means", "factors", "degrees"), map(torch.tensor, (log_weights, means, scales, degrees)))
    )
    em["factors"] = torch.linalg.cholesky(em["factors"])
    z = torch.randn(37, D, generator=rng(), dtype=torch.float64) * 3
    work = _student.Workspace(K, D, 10, torch.float64, z.device)  # 10 does not divide 37
    coefficients = work.coefficients(em)
    joint = scores(z.numpy(), log_weights, means, scales, degrees)
    log_prob = logsumexp(joint, axis=1)
    np.testing.assert_allclose(work.log_prob(z, coefficients).numpy(), log_prob, rtol=1e-10)
    total, sums, tallies = work.accumulate(z, coefficients)
    r = np.exp(joint - log_prob[:, None])
    centred = z.numpy()[:, None] - means
    v = np.einsum("nki,kij,nkj->nk", centred, np.linalg.inv(scales), centred) / degrees
    assert total == pytest.approx(log_prob.sum(), rel=1e-12)
    rows, columns = np.triu_indices(D)
    phi = np.concatenate([np.ones((37, 1)), z.numpy(), z.numpy()[:, rows] * z.numpy()[:, columns]], 1)
    np.testing.assert_allclose(sums.numpy(), (r / (1 + v)).T @ phi, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(tallies.numpy(), np.stack([r.sum(0), (r * np.log1p(v)).sum(0)], 1), rtol=1e-9)


@pytest.mark.parametrize("d", [1, 2])
def test_the_density_integrates_to_one(d):
    log_weights, means, scales, _ = random_parameters(d)
    model = model_of(log_weights, means, scales, [2.0, 3.0, 40.0])

    def density(*x):
        return float(model.log_prob(torch.tensor([x], dtype=torch.float64)).exp())

    def folded(*angles):
        """x = tan(a): the whole line in a bounded interval, tails included."""
        return density(*map(math.tan, angles)) / math.prod(math.cos(a) ** 2 for a in angles)

    if d == 1:
        total, error = integrate.quad(folded, -math.pi / 2, math.pi / 2, epsabs=1e-10, limit=500)
        assert error < 1e-8
        assert total == pytest.approx(1, abs=1e-8)
    else:
        # The trapezoidal rule in a periodic variable; ends are left out, where the density is zero.
        a = (np.arange(1200) + 0.5) / 1200 * math.pi - math.pi / 2
        points = torch.tensor(np.stack(np.meshgrid(np.tan(a), np.tan(a)), -1).reshape(-1, 2))
        jacobian = np.prod(1 + points.numpy() ** 2, 1)
        total = float((model.log_prob(points).exp().numpy() * jacobian).sum()) * (math.pi / 1200) ** 2
        assert total == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("d", [1, 3, 63])
def test_the_ratio_of_gamma_functions_is_exact_at_small_and_at_huge_degrees(d):
    import mpmath

    for nu in (0.5, 3.0, 1e3, 1e5, 1e8):
        exact = float(mpmath.loggamma(mpmath.mpf(nu + d) / 2) - mpmath.loggamma(mpmath.mpf(nu) / 2))
        mine = float(_student.log_gamma_ratio(torch.tensor([nu], dtype=torch.float64), d)[0])
        assert mine == pytest.approx(exact, abs=1e-7)


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


# The Gaussian mixture as the limit


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("start", ["kmeans", "random"])
def test_with_many_degrees_of_freedom_an_em_step_is_the_gaussian_mixture_s(start, ridge):
    x = heavy_clusters(degrees=30.0)
    spec = {"components": K, "tolerance": 0.0, "ridge": ridge, "start": start, "precision": "float64"}
    probe = torch.from_numpy(x)
    for iterations in (1, 2, 5):
        t = fit(x, degrees=1e8, iterations=iterations, **spec)
        g = fit(x, module=gmm, iterations=iterations, **spec)
        for name, value in g.state().items():
            torch.testing.assert_close(t.state()[name], value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(t.log_prob(probe), g.log_prob(probe), rtol=0, atol=2e-5)
    y = probe[:40].double() + 0.3
    torch.testing.assert_close(t.posterior_mean(y, 0.5), g.posterior_mean(y, 0.5), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(t.posterior_mode(y, 0.5), g.posterior_mode(y, 0.5), rtol=1e-5, atol=1e-5)


def test_the_limit_is_of_order_one_over_the_degrees():
    log_weights, means, scales, _ = random_parameters(D)
    g = gmm.Model(gmm.Spec(components=K), D)
    g.load_state(
        {
            "log_weights": torch.tensor(log_weights),
            "means": torch.tensor(means),
            "factors": torch.linalg.cholesky(torch.tensor(scales)),
        }
    )
    x = torch.randn(100, D, generator=rng(), dtype=torch.float64)
    errors = [
        float((model_of(log_weights, means, scales, [nu] * K).log_prob(x) - g.log_prob(x)).abs().max())
        for nu in (1e3, 1e4, 1e5, 1e8)
    ]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.05)
    assert errors[3] < 1e-5


@pytest.mark.parametrize("degrees", [1.0, 1e5, 1e8])
def test_float32_scores_stay_exact_at_any_degrees(degrees):
    """1 + delta / nu is 1 in float32 at large nu: log(1 + .) must not be taken of the sum."""
    log_weights, means, scales, _ = random_parameters(D)
    values = map(torch.tensor, (log_weights, means, scales, K * [float(degrees)]))
    em = {k: v.double() for k, v in zip(("log_weights", "means", "factors", "degrees"), values)}
    em["factors"] = torch.linalg.cholesky(em["factors"])
    z = torch.randn(300, D, generator=rng(), dtype=torch.float64)
    work = _student.Workspace(K, D, 100, torch.float32, z.device)
    exact = _student.log_mixture(z, *em.values()).logsumexp(0)
    torch.testing.assert_close(work.log_prob(z.float(), work.coefficients(em)).double(), exact, rtol=0, atol=1e-4)


def test_a_noisy_component_of_huge_degrees_is_the_gaussian_to_rounding():
    covariance = np.array([[1.0, 0.4], [0.4, 0.3]])
    factor = torch.linalg.cholesky(torch.tensor(covariance))
    component = _student.NoisyComponent(torch.zeros(2, dtype=torch.float64), factor, torch.tensor(1e10), 0.5)
    y = torch.tensor([[0.0, 0.0], [1.0, -2.0], [3.0, 3.0]], dtype=torch.float64)
    log_prob, mean = component.posterior(y)
    noisy = covariance + 0.25 * np.eye(2)
    np.testing.assert_allclose(log_prob.numpy(), stats.multivariate_normal([0, 0], noisy).logpdf(y.numpy()), atol=1e-7)
    np.testing.assert_allclose(mean.numpy(), y.numpy() @ np.linalg.solve(noisy, covariance), atol=1e-7)


# The sampler


def test_samples_follow_the_distribution_function_of_every_direction():
    log_weights, means, scales, degrees = random_parameters(2)
    x = model_of(log_weights, means, scales, degrees).sample(40_000, rng(4)).double().numpy()
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, -0.8]):
        a = np.array(direction)

        def cdf(value, a=a):
            parts = zip(np.exp(log_weights), means @ a, np.sqrt(a @ scales @ a), degrees, strict=True)
            return sum(w * stats.t(df=v, loc=m, scale=s).cdf(value) for w, m, s, v in parts)

        assert stats.kstest(x @ a, cdf).pvalue > 1e-6  # false alarm: 3e-6 for the three directions together


def test_samples_fall_into_cells_as_the_density_says():
    """Chi-squared over 400 cells of equal width and one for the rest; false alarm 1e-6."""
    given = random_parameters(2)
    model, n, edge, cells, fine = model_of(*given), 50_000, 6.0, 20, 30
    x = model.sample(n, rng(5)).double().numpy()
    width = 2 * edge / cells
    axis = -edge + (np.arange(cells * fine) + 0.5) * width / fine
    grid = torch.tensor(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2))
    mass = model.log_prob(grid).exp().numpy().reshape(cells, fine, cells, fine).sum((1, 3)) * (width / fine) ** 2
    seen = np.histogram2d(*x.T, bins=cells, range=[[-edge, edge]] * 2)[0]
    expected = np.append(mass.ravel(), 1 - mass.sum()) * n
    observed = np.append(seen.ravel(), n - seen.sum())
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum())
    observed = np.append(observed[~rare], observed[rare].sum())
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, len(expected) - 1) > 1e-6


def test_draws_of_the_heaviest_tails_allowed_are_finite_in_float32(monkeypatch):
    model = model_of([0.0], [[0.0]], [[[1.0]]], [_student.LEAST_DEGREES])
    assert bool(model.sample(200_000, rng(0)).isfinite().all())
    # The least uniform number that a generator may give is zero.
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, **_: torch.zeros(*shape, dtype=dtype))
    furthest = model.sample(5, rng(0))
    assert bool(furthest.isfinite().all())
    assert float(furthest.abs().max()) > 1e25


# Patches under noise


def brute_posterior(model, y: float, sd: float) -> tuple[np.ndarray, np.ndarray]:
    grid = np.concatenate([np.linspace(-60, 60, 240_001)])
    joint = model.log_prob(torch.tensor(grid[:, None])).numpy() - 0.5 * ((y - grid) / sd) ** 2
    return grid, joint


@pytest.mark.parametrize("degrees", [(0.7, 2.0), (3.0, 30.0), (1e5, 1e8)])
def test_the_posterior_mean_is_bayes_by_quadrature(degrees):
    model, sd = model_of(np.log([0.4, 0.6]), [[-2.0], [1.0]], [[[0.25]], [[1.5]]], degrees), 0.7
    y = torch.tensor([[-20.0], [-3.0], [-0.6], [0.0], [2.5], [12.0]], dtype=torch.float64)
    for value, mine in zip(y[:, 0], model.posterior_mean(y, sd)[:, 0], strict=True):
        grid, joint = brute_posterior(model, float(value), sd)
        weights = np.exp(joint - joint.max())
        assert float(mine) == pytest.approx((weights * grid).sum() / weights.sum(), abs=1e-7)


@pytest.mark.parametrize("degrees", [0.5, 1.0, 3.0, 50.0, 1e5])
@pytest.mark.parametrize("noise_sd", [0.01, 0.5, 20.0])
def test_the_density_of_noisy_examples_is_the_integral_over_the_scale(degrees, noise_sd):
    g = np.random.default_rng(2)
    root = g.normal(size=(D, D)) * np.array([5.0, 1.0, 0.1, 0.01])
    factor = torch.linalg.cholesky(torch.tensor(root @ root.T + 1e-6 * np.eye(D)))
    component = _student.NoisyComponent(torch.zeros(D, dtype=torch.float64), factor, torch.tensor(degrees), noise_sd)
    y = torch.tensor(g.normal(size=(6, D)) * np.array([0.01, 0.1, 1.0, 3.0, 30.0, 1000.0])[:, None])
    log_prob, mean = component.posterior(y)
    covariance = (factor @ factor.T).numpy()
    for n in range(len(y)):
        values, vectors = np.linalg.eigh(covariance)
        c = y[n].numpy() @ vectors

        def log_joint(t, c=c, values=values):
            variances = values[:, None] * np.exp(-t) + noise_sd**2
            prior = stats.gamma(degrees / 2, scale=2 / degrees).logpdf(np.exp(t)) + t
            return prior + stats.norm(0, np.sqrt(variances)).logpdf(c[:, None]).sum(0)

        t = np.linspace(-200 / min(degrees, 20) - 20, 12, 400_001)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            joint = np.nan_to_num(log_joint(t), nan=-np.inf)
        total = logsumexp(joint) + math.log(t[1] - t[0])
        assert float(log_prob[n]) == pytest.approx(total, abs=1e-6)
        gains = values[:, None] / (values[:, None] + np.exp(t) * noise_sd**2)
        expected = vectors @ (c * (gains * np.exp(joint - logsumexp(joint))).sum(1))
        np.testing.assert_allclose(mean[n].numpy(), expected, rtol=1e-6, atol=1e-6 * abs(y[n]).max().item())


@pytest.mark.parametrize(
    ("degrees", "scale", "most_peaks"),
    [(0.7, 0.25, 2), (3.0, 0.25, 1), (30.0, 0.25, 1), (0.5, 1e-4, 2), (2.0, 1e-3, 2)],
)
def test_the_posterior_mode_is_the_highest_point_of_the_probable_component(degrees, scale, most_peaks):
    model, sd = model_of([0.0], [[1.0]], [[[scale]]], [degrees]), 1.3
    peaks = 0
    for value in [-40.0, -6.0, -1.0, 1.0, 1.4, *np.arange(2.0, 9.0, 0.37)]:
        grid, joint = brute_posterior(model, value, sd)
        mine = float(model.posterior_mode(torch.tensor([[value]], dtype=torch.float64), sd))
        assert mine == pytest.approx(grid[joint.argmax()], abs=6e-4)
        peaks = max(peaks, int(((joint[1:-1] > joint[:-2]) & (joint[1:-1] > joint[2:])).sum()))
    assert peaks == most_peaks  # a narrow component has two where noise meets its tail: the higher one is meant


def test_the_posterior_mode_takes_the_most_probable_component_and_is_stationary_there():
    log_weights, means, scales, degrees = random_parameters(D)
    model, sd = model_of(log_weights, means, scales, degrees), 0.4
    y = model.sample(60, rng(8)).double()
    mode = model.posterior_mode(y, sd)
    chosen = model._restored(y, sd)[1].numpy()
    assert len(set(chosen)) == K
    for n in range(len(y)):
        k = chosen[n]
        precision, centred = np.linalg.inv(scales[k]), mode[n].numpy() - means[k]
        u = (degrees[k] + D) / (degrees[k] + centred @ precision @ centred)
        gradient = u * precision @ centred - (y[n].numpy() - mode[n].numpy()) / sd**2
        assert np.abs(gradient).max() < 1e-5 * max(1.0, np.abs(precision @ centred).max())


def test_without_noise_the_observation_is_returned():
    model = model_of(*random_parameters(D))
    y = torch.randn(5, D, generator=rng(), dtype=torch.float64)
    torch.testing.assert_close(model.posterior_mode(y, 0.0), y)
    torch.testing.assert_close(model.posterior_mean(y, 0.0), y)


# What the Gaussian mixture's fit promises


def test_an_affine_change_of_the_data_moves_the_log_density_by_its_jacobian():
    x = heavy_clusters()
    g = np.random.default_rng(5)
    a, b = g.normal(size=(D, D)), 50 * g.normal(size=D)
    moved = (x.astype(float) @ a.T + b).astype(np.float32)
    spec = {"components": K, "iterations": 8, "start": "random", "precision": "float64"}
    plain, changed = fit(x, **spec), fit(moved, **spec)
    shift = changed.log_prob(torch.from_numpy(moved)) - plain.log_prob(torch.from_numpy(x))
    np.testing.assert_allclose(shift.numpy(), -np.linalg.slogdet(a)[1], atol=5e-3)
    torch.testing.assert_close(changed.state()["degrees"], plain.state()["degrees"], rtol=1e-3, atol=0)


def test_float32_agrees_with_float64():
    x = heavy_clusters(3000)
    spec = {"components": K, "iterations": 20, "tolerance": 0.0, "start": "random"}
    session = Session(rng())
    single, double = fit(x, session, **spec), fit(x, precision="float64", **spec)
    probe = torch.from_numpy(x)
    assert float(single.log_prob(probe).mean()) == pytest.approx(float(double.log_prob(probe).mean()), abs=1e-4)
    torch.testing.assert_close(single.state()["degrees"], double.state()["degrees"], rtol=1e-3, atol=0)
    # Outliers stretch the whitening, so that clusters are narrow in it; the Gaussian mixture has as much of this.
    assert max(row["rounding"] for row in session.history) < 1e-3


def test_it_stops_early_and_resumes_after_the_stop(tmp_path):
    x = heavy_clusters()
    spec = {"components": K, "iterations": 150, "tolerance": 0.005}
    whole = Session(rng(), checkpoint_path=tmp_path / "kept", checkpoint_seconds=0.0)
    model = fit(x, whole, **spec)
    assert 2 <= len(whole.history) < 150
    again = Session(rng(), checkpoint_path=tmp_path / "kept", checkpoint_seconds=0.0)
    same = fit(x, again, **spec)
    assert again.history == whole.history
    assert all(torch.equal(same.state()[key], value) for key, value in model.state().items())


def test_empty_components_are_counted_and_take_half_of_the_largest():
    x = np.concatenate([heavy_clusters(300), np.full((1, D), 500.0, dtype=np.float32)])
    session = Session(rng(2))
    model = fit(x, session, components=12, iterations=10, tolerance=0.0, ridge=0.01)
    assert sum(row["empty_components"] for row in session.history) > 0
    log_weights, _, _, degrees = parameters(model)
    assert float(np.exp(log_weights).sum()) == pytest.approx(1)
    assert ((degrees >= _student.LEAST_DEGREES) & (degrees <= _student.MOST_DEGREES)).all()
    assert np.isfinite(model.log_prob(torch.from_numpy(x)).numpy()).all()


def test_a_re_seeded_component_starts_with_the_first_degrees_of_freedom():
    model = student_t_mixture.Model(student_t_mixture.Spec(components=2, start_degrees=7.0), D)
    em = _fitting.blank(model.spec, D, torch.device("cpu")) | {"degrees": torch.full((2,), 2.0, dtype=torch.float64)}
    work = SimpleNamespace(ridge=torch.zeros(D, D, dtype=torch.float64), advice=1.0)
    x = torch.from_numpy(heavy_clusters()).double()
    phi = torch.cat([torch.ones(len(x), 1), x, (x[:, :, None] * x[:, None])[:, *np.triu_indices(D)]], 1).sum(0)
    sums, tallies = torch.stack([phi, 1e-9 * phi]), torch.tensor([[900.0, 400.0], [9e-7, 4e-7]], dtype=torch.float64)
    assert model._maximise(em, sums, tallies, work, rng()) == 1
    assert float(em["degrees"][1]) == 7.0
    assert float(em["degrees"][0]) != 7.0
    np.testing.assert_allclose(em["log_weights"].exp().numpy(), 0.5)


def test_what_cannot_be_done_says_what_to_set():
    x = heavy_clusters()
    with pytest.raises(CannotBeDone, match="fewer components"):
        fit(x[:10], components=3)
    with pytest.raises(CannotBeDone, match="ridge"):
        fit(np.concatenate([x, x[:, :1]], 1), components=2)
    repeated = np.concatenate([x, np.repeat(x[:1] + 30, 200, 0)])  # one component shrinks onto a point
    with pytest.raises(CannotBeDone, match="ridge") as failure:
        fit(repeated, components=4, iterations=200, tolerance=0.0, precision="float64")
    advised = float(str(failure.value).split("Set ridge to ")[1].split()[0])
    fit(repeated, components=4, iterations=200, tolerance=0.0, precision="float64", ridge=advised)


def test_memory_of_an_iteration_does_not_depend_on_the_number_of_examples():
    """What an E-step allocates beyond its buffers: the same for 10 chunks and for 80."""
    parameters_ = random_parameters(D)
    em = dict(zip(("log_weights", "means", "factors", "degrees"), map(torch.tensor, parameters_)))
    em["factors"] = torch.linalg.cholesky(em["factors"])
    work = _student.Workspace(K, D, 256, torch.float32, torch.device("cpu"))
    coefficients = work.coefficients(em)

    def largest(n: int) -> int:
        z = torch.randn(n, D, generator=rng())
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
            work.accumulate(z, coefficients)
        return max(event.cpu_memory_usage // max(event.count, 1) for event in seen.key_averages())

    work.accumulate(torch.randn(300, D), coefficients)
    assert largest(80 * 256) <= largest(10 * 256) + 64
