"""The variational autoencoder of two stochastic layers against quadrature and equations by hand."""

import math

import pytest
import torch
import vaes as made
from torch import Tensor

from dgmbench.models.variational import vae

every_x, network = made.every_x, made.network


TWO_LAYERS = {"upper_latent": 2, "upper_hidden": [3]}


def test_closed_and_sampled_divergence_agree_over_two_layers():
    """The highest layer in closed form given the layer below it has the mean of the draws; so has one layer."""
    n = 100_000
    for spec in ({}, TWO_LAYERS):
        model, x = network(6, 2, scale=0.25, **spec), every_x(6)[5:6]
        parts = [
            model.terms(x, model.noise(n, len(x), torch.Generator().manual_seed(seed)), closed)[1][:, 0]
            for seed, closed in ((1, True), (2, False))
        ]
        standard_error = math.hypot(*(part.std().item() for part in parts)) / math.sqrt(n)
        # Beyond 4.5 standard errors in 150,000 seeds.
        assert abs(parts[0].mean() - parts[1].mean()) < 4.5 * standard_error + 1e-9
        assert parts[0].std() < parts[1].std()


def two_layer_log_prob(model: vae.Model, x: Tensor) -> Tensor:
    """log of the integral of N(y) N(z; m(y), s(y)^2) p(x given z) over both, by the trapezium rule on [-9, 9]^2."""
    axis = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    mean, log_sd = model.networks.moments("upper_decoder", axis[:, None])
    noise = axis[None, :]
    z = mean + log_sd.exp() * noise
    log_p = model.output.log_prob(x[:, None, None], model.decode(z[..., None]))
    log_prior = -0.5 * (axis[:, None] ** 2 + noise**2) - math.log(2 * math.pi) + 2 * math.log(axis[1] - axis[0])
    return torch.logsumexp((log_p + log_prior).flatten(1), 1)


def test_two_layers_against_quadrature():
    model = network(3, 1, seed=4, scale=0.15, upper_latent=1, upper_hidden=[3])
    x = every_x(3)
    exact = two_layer_log_prob(model, x)
    assert torch.logsumexp(exact, 0).item() == pytest.approx(0.0, abs=1e-7)
    ratio = torch.exp(model.log_weights(x, 100_000, torch.Generator().manual_seed(3)) - exact)
    standard_error = ratio.std(0) / math.sqrt(len(ratio))
    # 8 means, each beyond 5 standard errors in 1.7 million.
    assert standard_error.max() < 0.01
    assert ((ratio.mean(0) - 1).abs() < 5 * standard_error).all()
    drawn = model.sample(20_000, torch.Generator().manual_seed(8))
    observed = torch.bincount((drawn @ torch.tensor([4.0, 2, 1]).double()).long(), minlength=8)
    expected = 20_000 * exact.exp()
    # 7 degrees of freedom: P(chi-square > 35) = 1e-5.
    assert ((observed - expected) ** 2 / expected).sum() < 35


def test_two_layer_log_weights_by_hand():
    """log p(y) + log p(z given y) + log p(x given z) - log q(z given x) - log q(y given z), noise as drawn."""
    model, x = network(6, 2, scale=0.5, upper_latent=3), every_x(6)[:10]
    weights = model.log_weights(x, 7, torch.Generator().manual_seed(9))
    generator, normal = torch.Generator().manual_seed(9), torch.distributions.Normal
    mean, log_sd = model.encode(x)
    z = mean + log_sd.exp() * torch.randn(7, 10, 2, generator=generator, dtype=torch.float64)
    mean_y, log_sd_y = model.networks.moments("upper_encoder", z)
    y = mean_y + log_sd_y.exp() * torch.randn(7, 10, 3, generator=generator, dtype=torch.float64)
    prior_mean, prior_log_sd = model.networks.moments("upper_decoder", y)
    log_p = normal(0.0, 1.0).log_prob(y).sum(-1) + normal(prior_mean, prior_log_sd.exp()).log_prob(z).sum(-1)
    log_q = normal(mean, log_sd.exp()).log_prob(z).sum(-1) + normal(mean_y, log_sd_y.exp()).log_prob(y).sum(-1)
    log_p_x = torch.distributions.Bernoulli(logits=model.decode(z)).log_prob(x.expand(7, -1, -1)).sum(-1)
    torch.testing.assert_close(weights, log_p + log_p_x - log_q, rtol=1e-10, atol=1e-9)


def test_upper_posterior_means_are_means_over_the_layer_below():
    model, x = network(6, 2, upper_latent=3), every_x(6)[:4]
    lower, upper = model.posterior_means(x, 4000, torch.Generator().manual_seed(2))
    torch.testing.assert_close(lower, model.encode(x)[0])
    mean, log_sd = (value[:, None] for value in model.encode(x))
    z = mean + log_sd.exp() * torch.randn(4, 20_000, 2, generator=torch.Generator().manual_seed(5)).double()
    many = model.networks.moments("upper_encoder", z)[0]
    standard_error = many.std(1) * math.sqrt(1 / 4000 + 1 / 20_000)
    # 12 means, each beyond 5 standard errors in 1.7 million.
    assert ((upper - many.mean(1)).abs() < 5 * standard_error + 1e-9).all()
