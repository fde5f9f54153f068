"""The Student-t mixture's density against scipy and closed forms, and the Gaussian mixture as its limit."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import student_t as made
import torch
from scipy import integrate, stats
from scipy.special import logsumexp

from dgmbench.errors import CannotBeDone
from dgmbench.models.mixtures import _fitting, _student, gmm, student_t_mixture
from dgmbench.training.session import Session

D, K, fit, heavy_clusters, model_of = made.D, made.K, made.fit, made.heavy_clusters, made.model_of
parameters, random_parameters, rng, scores = made.parameters, made.random_parameters, made.rng, made.scores


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
