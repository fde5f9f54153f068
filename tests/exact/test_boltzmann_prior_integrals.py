"""Boltzmann priors through Gaussian integrals and given zeta, against enumeration of z, quadrature and differences."""

import math

import boltzmann_priors as made
import pytest
import torch

from dgmbench.models.boltzmann._bipartite import Bipartite
from dgmbench.models.variational._boltzmann_prior import (
    GaussianIntegralRelaxation,
    JointPrior,
    bernoulli_entropy,
    spectral_bound,
)
from dgmbench.models.variational.smoothing.exponential import Exponential
from dgmbench.models.variational.smoothing.gaussian import Gaussian

SMOOTHINGS, check_gradients, drawn_zeta = made.SMOOTHINGS, made.check_gradients, made.drawn_zeta
every_z, log_conditional_terms, log_z, machine = made.every_z, made.log_conditional_terms, made.log_z, made.machine
negative_energy, nodes = made.negative_energy, made.nodes


@pytest.mark.parametrize(("own", "other"), [(3, 2), (2, 4)])
def test_gaussian_integral_is_the_sum_over_z(own, other):
    one = machine(own, other)
    prior = GaussianIntegralRelaxation(one, beta=3.0, margin=1.0)
    shift = prior.shift()
    full = torch.zeros(own + other, own + other, dtype=torch.float64)
    full[:own, own:], full[own:, :own] = one.weights, one.weights.T
    precision = full + shift * torch.eye(own + other, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    zeta = 2 * torch.randn(30, own + other, generator=generator, dtype=torch.float64)
    component = torch.distributions.MultivariateNormal(every_z(own + other), precision_matrix=precision)
    exact = torch.logsumexp(negative_energy(one) + component.log_prob(zeta.unsqueeze(1)), 1)
    torch.testing.assert_close(prior.log_unnormalised(zeta), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("own", "other"), [(1, 1), (2, 1)])
def test_gaussian_integral_integrates_to_one(own, other):
    one = machine(own, other)
    axis = torch.linspace(-3, 4, 71, dtype=torch.float64)
    zeta = torch.cartesian_prod(*[axis] * (own + other))
    log_p = GaussianIntegralRelaxation(one, beta=6.0, margin=4.0).log_unnormalised(zeta) - log_z(one)
    assert (log_p.exp().sum() * (axis[1] - axis[0]) ** (own + other)).item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("beta", [1.0, 30.0])
def test_gradient_of_the_gaussian_integral(beta):
    """Where U(W) + margin decides lambda, and where beta does."""
    one = machine(3, 2)
    prior = GaussianIntegralRelaxation(one, beta=beta, margin=0.5)
    assert (prior.shift().item() == beta) == (beta > 10)
    zeta = drawn_zeta(Gaussian(4.0), 6, 5)
    leaves = {"weights": one.weights, "own": one.own, "other": one.other, "zeta": zeta}
    check_gradients(lambda: prior.log_unnormalised(zeta).sum(), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(40, 25), (25, 40), (30, 30)])
def test_precision_stays_positive_definite(shape, scale, dtype):
    generator = torch.Generator().manual_seed(3)
    full_rank = scale * torch.randn(shape, generator=generator, dtype=dtype)
    low_rank = full_rank[:, :1] @ full_rank[:1] / scale
    flat = scale * torch.eye(*shape, dtype=dtype)
    for weights in (full_rank, low_rank, flat):
        norm, bound = torch.linalg.matrix_norm(weights.double(), 2).item(), spectral_bound(weights).item()
        # Below by rounding alone, which the margin covers many times; above by the factor of the Schatten norm.
        assert norm * (1 - 1e-5) <= bound <= norm * (min(shape) ** (1 / 32) + 1e-5)
        one = Bipartite(weights, torch.zeros(shape[0], dtype=dtype), torch.zeros(shape[1], dtype=dtype))
        prior = GaussianIntegralRelaxation(one, beta=1.0)
        assert prior.shift() > norm
        assert torch.isfinite(prior.log_unnormalised(torch.full((sum(shape),), 0.5, dtype=dtype)))


def test_no_weights_have_no_bound_and_no_gradient():
    """Training starts at W = 0 exactly."""
    weights = torch.zeros(4, 3, requires_grad=True)
    bound = spectral_bound(weights)
    bound.backward()
    assert bound.item() < 1e-9
    assert torch.equal(weights.grad, torch.zeros(4, 3))


def test_expectation_under_an_independent_posterior():
    one = machine(3, 2)
    logits = torch.linspace(-2, 2, 5, dtype=torch.float64)
    z = every_z(5)
    probability = torch.where(z > 0.5, torch.sigmoid(logits), torch.sigmoid(-logits)).prod(1)
    expected = (probability * negative_energy(one)).sum()
    torch.testing.assert_close(JointPrior(one, Exponential(6.0)).expected_log_unnormalised(logits), expected)
    entropy = -(probability * probability.log()).sum()
    torch.testing.assert_close(bernoulli_entropy(logits), entropy)


@pytest.mark.parametrize("name", SMOOTHINGS)
def test_expectation_given_zeta_averages_to_the_closed_form(name):
    """E_q(zeta)[sigmoid(logit + b(zeta))] = q, by quadrature over the one own unit's zeta."""
    one, logits = machine(1, 3), torch.tensor([0.7, -1.0, 0.2, 1.5], dtype=torch.float64)
    joint, (zeta, length) = JointPrior(one, SMOOTHINGS[name]), nodes(name, 40)
    places = torch.cat((zeta.unsqueeze(1), torch.full((len(zeta), 3), 0.5, dtype=torch.float64)), 1)
    density = SMOOTHINGS[name].mixture_log_prob(zeta, logits[0]).exp() * length
    averaged = (density * joint.expected_log_unnormalised(logits, places)).sum()
    torch.testing.assert_close(averaged, joint.expected_log_unnormalised(logits), atol=1e-6, rtol=0)


def test_posterior_given_zeta_is_that_of_bayes():
    one, smoothing = machine(2, 1), SMOOTHINGS["power_function"]
    logits, zeta = torch.tensor([0.3, -1.0, 2.0]).double(), torch.tensor([0.2, 0.9, 0.5]).double()
    joint = smoothing.log_prob(zeta, torch.ones(3)).exp() * torch.sigmoid(logits)
    expected = joint / smoothing.mixture_log_prob(zeta, logits).exp()
    found = torch.sigmoid(JointPrior(one, smoothing).posterior_logits(zeta, logits))
    torch.testing.assert_close(found, expected)


def test_joint_density_sums_to_the_marginal():
    one, smoothing = machine(2, 2), SMOOTHINGS["exponential"]
    zeta = drawn_zeta(smoothing, 20, 4)
    joint = JointPrior(one, smoothing).log_unnormalised(every_z(4), zeta.unsqueeze(1))
    exact = torch.logsumexp(log_conditional_terms(one, smoothing, zeta), 1)
    torch.testing.assert_close(torch.logsumexp(joint, 1), exact)
    assert math.isfinite(exact.sum().item())


def test_gradient_of_the_joint_prior():
    one, logits = machine(3, 2), torch.linspace(-2, 2, 5, dtype=torch.float64).repeat(4, 1)
    zeta = drawn_zeta(SMOOTHINGS["exponential"], 4, 5)
    joint = JointPrior(one, SMOOTHINGS["exponential"])
    leaves = {"weights": one.weights, "own": one.own, "other": one.other, "zeta": zeta, "logits": logits}
    # The middle of zeta is on the own side, which is the one that it enters through.
    check_gradients(lambda: joint.expected_log_unnormalised(logits, zeta).sum(), leaves)
