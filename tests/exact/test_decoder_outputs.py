"""Distributions of x given z against scipy's, and their tables against themselves."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from dgmbench.models.variational._outputs import SQUARED_ERROR_SD, Bernoulli, Gaussian

OUTPUTS = {
    "bernoulli": Bernoulli(),
    "fixed": Gaussian(0.3, 0.01),
    "squared error": Gaussian(SQUARED_ERROR_SD, 0.01),
    "own": Gaussian(None, 0.2),
}
D = 3


def case(name: str, n: int = 5):
    """x (n, d) and outputs (n, width) of moderate size."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, D, generator=g, dtype=torch.float64)
    a = torch.randn(n, OUTPUTS[name].width(D), generator=g, dtype=torch.float64)
    return (x > 0).double() if name == "bernoulli" else x, a


def by_scipy(name: str, x: np.ndarray, a: np.ndarray) -> np.ndarray:
    if name == "bernoulli":
        return stats.bernoulli.logpmf(x.astype(int), 1 / (1 + np.exp(-a))).sum(-1)
    sd = {"fixed": 0.3, "squared error": math.sqrt(0.5)}.get(name)
    if sd is None:
        a, sd = a[..., :D], np.sqrt(np.exp(2 * a[..., D:]) + 0.2**2)
    return stats.norm.logpdf(x, a, sd).sum(-1)


@pytest.mark.parametrize("name", OUTPUTS)
def test_log_probabilities_are_scipys(name):
    x, a = case(name)
    np.testing.assert_allclose(OUTPUTS[name].log_prob(x, a), by_scipy(name, x.numpy(), a.numpy()), rtol=1e-10)
    table = OUTPUTS[name].table(x[:2], a)
    expected = by_scipy(name, x[:2].numpy()[None], a.numpy()[:, None])
    np.testing.assert_allclose(table, expected, rtol=1e-9)


def test_squared_error_is_the_log_density_up_to_a_constant():
    x, a = case("squared error")
    expected = -(x - a).square().sum(1) - D / 2 * math.log(math.pi)
    torch.testing.assert_close(OUTPUTS["squared error"].log_prob(x, a), expected)


@pytest.mark.parametrize("name", OUTPUTS)
def test_draws_have_the_stated_mean_and_log_probability(name):
    output, n = OUTPUTS[name], 100_000
    a = case(name)[1][:1].expand(n, -1)
    x = output.draw(a, torch.Generator().manual_seed(1))
    # Means of d dimensions and of the log-density, each beyond 5 standard errors in 1.7 million.
    assert ((x.mean(0) - output.mean(a)[0]).abs() < 5 * x.std(0) / math.sqrt(n)).all()
    log_prob = output.log_prob(x, a)
    p = a[0].numpy()
    if name == "bernoulli":
        entropy = stats.bernoulli(1 / (1 + np.exp(-p))).entropy().sum()
    else:
        entropy = stats.norm(0, np.sqrt(np.exp(2 * p[D:]) + 0.2**2) if name == "own" else output.sd).entropy()
        entropy = np.broadcast_to(entropy, D).sum()
    assert abs(log_prob.mean().item() + entropy) < 5 * log_prob.std().item() / math.sqrt(n)


@pytest.mark.parametrize("name", OUTPUTS)
def test_first_outputs_give_the_data_their_own_moments(name):
    rng = np.random.default_rng(2)
    x = (rng.random((4000, D)) < 0.3).astype(np.uint8) if name == "bernoulli" else rng.normal(2, 3, (4000, D))
    a = torch.from_numpy(OUTPUTS[name].first_bias(x))[None]
    assert a.shape == (1, OUTPUTS[name].width(D))
    np.testing.assert_allclose(OUTPUTS[name].mean(a)[0], x.mean(0), rtol=1e-9)
    if name == "own":
        drawn = OUTPUTS[name].draw(a.expand(100_000, -1), torch.Generator().manual_seed(3))
        # A standard deviation from 100,000 draws is off by 0.2 %: 1.2 % is five of them.
        np.testing.assert_allclose(drawn.std(0), x.std(0), rtol=0.012)
