"""Estimators over latent variables, on a linear Gaussian decoder whose likelihood and posterior have closed forms."""

import math

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import active_units, latent_ais, latent_grid, latent_quadrature, prior_sampling
from dgmbench.estimators.base import Workbench
from dgmbench.models.base import Decoder, Encoder

W = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, 0.4]], dtype=torch.float64)
SD = 0.7


class LinearGaussian(Decoder):
    """u from N(0, I), x from N(W u, SD^2 I), so that p(x) = N(0, W W^T + SD^2 I)."""

    def __init__(self, m: int = 2):
        self.weights = W[:, :m]

    @property
    def latent_dimension(self):
        return self.weights.shape[1]

    def mean_x_given_u(self, u):
        return u.double() @ self.weights.T

    def log_prob_x_given_u(self, x, u):
        return torch.distributions.Normal(self.mean_x_given_u(u), SD).log_prob(x.double()).sum(-1)

    def log_prob_table(self, x, u):
        return self.log_prob_x_given_u(x[None], u[:, None])

    def log_prob(self, x):
        covariance = self.weights @ self.weights.T + SD**2 * torch.eye(3, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(x.double())


class Known(LinearGaussian, Encoder):
    """Posterior means of two layers: x itself, and a second that is zero up to the noise of its draws."""

    def posterior_means(self, x, draws, generator):
        noise = torch.randn(len(x), 3, generator=generator) / math.sqrt(draws)
        return [x * torch.tensor([1.0, 0.05, 0.0]), noise]


def dataset(n: int = 40) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x = u @ W.T + SD * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    parts = {name: Split(x.numpy().astype(np.float32), np.arange(n) % 3) for name in ("train", "validation", "test")}
    return Dataset("plane", "plane", "real", (3,), parts, {})


def estimates(module, model, data=None, seed: int = 0, **settings):
    bench = Workbench(torch.Generator().manual_seed(seed))
    return module.estimate(model, data or dataset(), module.Settings(**settings), bench)


def exact(model: LinearGaussian) -> np.ndarray:
    return model.log_prob(dataset().test.all()).numpy()


@pytest.mark.parametrize("m", [1, 2])
def test_quadrature_is_the_closed_form(m):
    model = LinearGaussian(m)
    (number,) = estimates(latent_quadrature, model, points=121, reach=8.0).numbers
    np.testing.assert_allclose(number.per_example, exact(model), atol=1e-9)
    assert number.converged
    assert not estimates(latent_quadrature, model, points=11, reach=8.0).numbers[0].converged


def test_quadrature_refuses_what_it_cannot_do():
    with pytest.raises(CannotBeDone, match="set points to 101"):
        estimates(latent_quadrature, LinearGaussian(), points=100)
    model = LinearGaussian()
    model.weights = torch.ones(3, 3).double()
    with pytest.raises(CannotBeDone, match="take importance_weighted"):
        estimates(latent_quadrature, model)


def test_prior_sampling_nears_the_likelihood_within_its_error(monkeypatch):
    model = LinearGaussian()
    monkeypatch.setattr(prior_sampling, "table_rows", lambda *_: 3001)
    (number,) = estimates(prior_sampling, model, k=20_000).numbers
    # The bias is about variance / 2 = 0.002 nats; beyond 4.5 standard errors in 150,000 seeds.
    assert abs(number.value - exact(model).mean()) < 4.5 * number.estimator_se + 0.002
    assert 0 < number.estimator_se < 0.05
    assert number.converged


def test_stated_error_of_shared_draws_is_the_scatter_over_repetitions():
    numbers = [estimates(prior_sampling, LinearGaussian(), seed=seed, k=2000).numbers[0] for seed in range(100)]
    scatter = np.std([number.value for number in numbers], ddof=1)
    # A standard deviation from 100 values has a relative error of 7 %: 35 % is five of them.
    assert np.mean([number.estimator_se for number in numbers]) == pytest.approx(scatter, rel=0.35)


def test_error_of_shared_draws_is_the_jackknife_written_out(monkeypatch):
    model, k = LinearGaussian(), 23
    monkeypatch.setattr(prior_sampling, "table_rows", lambda *_: 5)
    (number,) = estimates(prior_sampling, model, seed=4, k=k).numbers
    x, generator = dataset().test.all(), torch.Generator().manual_seed(4)
    tables = prior_sampling._tables(model, x, [12, 11], generator)
    p = torch.cat([table for _, table in tables]).exp()
    without = torch.stack([torch.cat([p[:j], p[j + 1 :]]).mean(0).log().mean() for j in range(k)])
    expected = math.sqrt((k - 1) / k * float((without - without.mean()).square().sum()))
    assert number.estimator_se == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(number.per_example, p.mean(0).log(), rtol=1e-12)


def test_stated_error_is_not_too_small_where_single_draws_carry_examples():
    """The delta method would state an error seventeen times too small here."""
    model = LinearGaussian()
    model.weights = 8 * W
    numbers = [estimates(prior_sampling, model, seed=seed, k=10).numbers[0] for seed in range(300)]
    assert np.mean([number.evidence["effective_sample_size_mean"] for number in numbers]) < 1.2
    scatter = np.std([number.value for number in numbers], ddof=1)
    stated = math.sqrt(np.mean([number.estimator_se**2 for number in numbers]))
    assert 0.9 * scatter < stated < 2 * scatter


def test_annealing_nears_the_likelihood_within_its_error():
    model = LinearGaussian()
    (number,) = estimates(latent_ais, model, temperatures=60, chains=40, leapfrog=3, step_size=0.5).numbers
    # The bias is about variance / 2 of one example, below 0.01 nats; beyond 4.5 standard errors in 150,000 seeds.
    assert abs(number.value - exact(model).mean()) < 4.5 * number.estimator_se + 0.01
    assert number.estimator_se < 0.05
    assert number.evidence["acceptance"] > 0.8
    assert number.evidence["effective_sample_size_min"] > 5


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_transitions_leave_each_temperature_invariant(beta):
    """Exact draws of N(mean, (I + beta W^T W / SD^2)^-1) keep their moments, at steps so long that many are refused."""
    model, n = LinearGaussian(), 40_000
    x = dataset().test.all()[:1].double().expand(n, -1)
    covariance = torch.linalg.inv(torch.eye(2).double() + beta * W.T @ W / SD**2)
    mean = beta * covariance @ W.T @ x[0] / SD**2
    target = torch.distributions.MultivariateNormal(mean, covariance)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    path = latent_ais.PosteriorPath(model, x, leapfrog=2, step_size=2.0)
    state = mean + noise @ torch.linalg.cholesky(covariance).T
    for _ in range(3):
        state = path.step(state, beta, generator)
    assert path.accepted < 0.97 * path.proposed
    centred = state - mean
    moments = torch.stack([centred[:, 0], centred[:, 1], centred[:, 0] ** 2, centred[:, 1] ** 2, centred.prod(1)], 1)
    expected = torch.tensor([0, 0, covariance[0, 0], covariance[1, 1], covariance[0, 1]])
    # 5 moments and the log-density, each beyond 5 standard errors in 1.7 million.
    assert ((moments.mean(0) - expected).abs() < 5 * moments.std(0) / math.sqrt(n)).all()
    log_p = target.log_prob(state)
    assert abs(log_p.mean() + target.entropy()) < 5 * log_p.std() / math.sqrt(n)


def test_path_runs_from_the_prior_to_the_joint():
    model, x = LinearGaussian(), dataset().test.all()
    path = latent_ais.PosteriorPath(model, x, 1, 0.1)
    u = path.sample_base(len(x), torch.Generator().manual_seed(1)).double()
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum(1)
    torch.testing.assert_close(path.log_unnormalised(u, 0.0), log_prior)
    torch.testing.assert_close(path.log_unnormalised(u, 1.0), log_prior + model.log_prob_x_given_u(x, u))
    difference = path.log_unnormalised(u, 0.7) - path.log_unnormalised(u, 0.2)
    torch.testing.assert_close(path.log_ratio(u, 0.2, 0.7), difference)


def test_active_units_of_a_known_posterior():
    data = dataset(400)
    found = estimates(active_units, Known(), data, draws=10)
    variances = found.arrays["variances"]
    x = data.test.x.astype(np.float64)
    np.testing.assert_allclose(variances[:3], x.var(0, ddof=1) * [1, 0.0025, 0], rtol=1e-5)
    # Two halves of 5 draws: a variance of their mean would be 1/10, their covariance is 1/5/20 = 0.01 wide around 0.
    assert np.abs(variances[3:]).max() < 5 * 0.01
    np.testing.assert_array_equal(found.arrays["layers"], [1, 1, 1, 2, 2, 2])
    number, lower, doubtful = estimates(active_units, Known(), data, draws=10, threshold=0.05).numbers
    assert (number.value, lower.value, doubtful.value) == (1, 1, 0)
    assert number.estimator_se is None  # counted from draws
    (wide, *_, doubtful) = estimates(active_units, Known(), data, draws=10, threshold=x.var(0, ddof=1)[0] * 1.5).numbers
    assert (wide.value, doubtful.value) == (0, 1)
    assert number.evidence["active_units_layer_1"] == 1
    assert number.evidence["active_units_layer_2"] == 0
    assert number.evidence["units_layer_2"] == 3
    with pytest.raises(CannotBeDone, match="two of them"):
        estimates(active_units, Known(), data, examples=1)


def test_grid_shows_the_decoder_at_its_points():
    data = dataset()
    found = estimates(latent_grid, Known(), data, side=3, reach=2.0)
    points = torch.tensor([[a, b] for b in (2.0, 0.0, -2.0) for a in (-2.0, 0.0, 2.0)])
    np.testing.assert_allclose(found.arrays["pictures"], Known().mean_x_given_u(points), atol=1e-6)
    inside = (np.abs(data.test.x * [1, 0.05, 0]) <= 2).all(1)
    assert 0 < found.numbers[0].value == pytest.approx(inside.mean())
    np.testing.assert_array_equal(found.arrays["labels"], data.test.labels)
    assert estimates(latent_grid, LinearGaussian(), data).numbers == []
    with pytest.raises(CannotBeDone, match="set latent to 2"):
        estimates(latent_grid, LinearGaussian(1), data)
