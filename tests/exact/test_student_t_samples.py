"""The Student-t mixture's sampler against its density, and its posteriors under noise against Bayes by quadrature."""

import math

import numpy as np
import pytest
import student_t as made
import torch
from scipy import stats
from scipy.special import logsumexp

from dgmbench.models.mixtures import _student

D, K, model_of, random_parameters, rng = made.D, made.K, made.model_of, made.random_parameters, made.rng


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
