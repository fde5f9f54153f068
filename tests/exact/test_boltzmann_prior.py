"""Boltzmann priors on continuous variables against enumeration of z, quadrature over zeta, and differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dgmbench.errors import CannotBeDone
from dgmbench.models.boltzmann._bipartite import Bipartite
from dgmbench.models.variational._boltzmann_prior import (
    GaussianIntegralRelaxation,
    JointPrior,
    OverlappingRelaxation,
    bernoulli_entropy,
    log_unnormalised,
    mean_log_unnormalised,
    spectral_bound,
)
from dgmbench.models.variational.smoothing.exponential import Exponential
from dgmbench.models.variational.smoothing.gaussian import Gaussian
from dgmbench.models.variational.smoothing.power_function import PowerFunction
from dgmbench.models.variational.smoothing.spike_and_exponential import SpikeAndExponential
from dgmbench.models.variational.smoothing.uniform_exponential import UniformExponential

SMOOTHINGS = {
    "exponential": Exponential(8.0),
    "uniform_exponential": UniformExponential(12.0, 0.05),
    "power_function": PowerFunction(6.0),
    "gaussian": Gaussian(20.0),
}


def machine(own: int, other: int, coupling: float = 1.0, seed: int = 0) -> Bipartite:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((own, other), (own,), (other,))
    weights, a, b = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return Bipartite(coupling * weights, a, b)


def every_z(d: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=d)), dtype=torch.float64)


def negative_energy(one: Bipartite) -> Tensor:
    """-E(z) of every z by its definition: (2^(S + O),)."""
    own = len(one.own)
    z = every_z(own + len(one.other))
    return torch.stack([s @ one.own + o @ one.other + s @ one.weights @ o for s, o in zip(z[:, :own], z[:, own:])])


def log_z(one: Bipartite) -> Tensor:
    return torch.logsumexp(negative_energy(one), 0)


def log_conditional_terms(one: Bipartite, smoothing, zeta: Tensor) -> Tensor:
    """-E(z) + log r(zeta given z), every z: (n, 2^(S + O))."""
    z = every_z(zeta.shape[-1])
    return negative_energy(one) + smoothing.log_prob(zeta.unsqueeze(1), z).sum(-1)


def nodes(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Places zeta and lengths of a quadrature over one dimension: Gauss-Legendre in rho = F(zeta) at q = 0.6, below and
    above rho = 1 - q, where other densities over that of the mixture are bounded and smooth."""
    place, weight = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(count))
    rho = torch.cat((0.2 * (place + 1), 0.4 + 0.3 * (place + 1)))
    logits = torch.full_like(rho, math.log(1.5))
    zeta = SMOOTHINGS[name].icdf(rho, logits)
    return zeta, torch.cat((0.2 * weight, 0.3 * weight)) / SMOOTHINGS[name].mixture_log_prob(zeta, logits).exp()


def product_rule(name: str, dimension: int, count: int) -> tuple[Tensor, Tensor]:
    zeta, length = nodes(name, count)
    places = torch.cartesian_prod(*[zeta] * dimension).reshape(-1, dimension)
    return places, torch.cartesian_prod(*[length] * dimension).reshape(-1, dimension).prod(1)


def drawn_zeta(smoothing, n: int, d: int, seed: int = 1) -> Tensor:
    return smoothing.sample(torch.zeros(n, d, dtype=torch.float64), torch.Generator().manual_seed(seed))


def check_gradients(value, leaves: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    """Autograd of `value()` against central differences in one place of each leaf."""
    for leaf in leaves.values():
        leaf.requires_grad_(True)
    value().backward()
    step = 1e-5
    for name, leaf in leaves.items():
        place = tuple(side // 2 for side in leaf.shape)
        with torch.no_grad():
            leaf[place] += step
            above = value()
            leaf[place] -= 2 * step
            below = value()
            leaf[place] += step
        difference = ((above - below) / (2 * step)).item()
        assert leaf.grad[place].item() == pytest.approx(difference, rel=tolerance, abs=tolerance), name


def test_log_unnormalised_is_minus_the_energy():
    one = machine(3, 2)
    z = every_z(5)
    torch.testing.assert_close(log_unnormalised(one, z[:, :3], z[:, 3:]), negative_energy(one))


def test_gradient_of_log_z_is_that_of_the_mean_over_samples():
    """All z, each as often as 1000 p(z) rounded: the gradient of log Z to that rounding."""
    one = machine(2, 2)
    for value in (one.weights, one.own, one.other):
        value.requires_grad_(True)
    exact = torch.autograd.grad(log_z(one), (one.weights, one.own, one.other))
    counts = (1e6 * torch.softmax(negative_energy(one).detach(), 0)).round().long()
    z = torch.repeat_interleave(every_z(4), counts, 0)
    estimate = torch.autograd.grad(mean_log_unnormalised(one, z[:, :2], z[:, 2:]), (one.weights, one.own, one.other))
    for found, expected in zip(estimate, exact):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SMOOTHINGS)
def test_relaxed_prior_of_uncoupled_units_integrates_to_one(name):
    one = machine(2, 1, coupling=0.0)
    zeta, volume = product_rule(name, 3, 20)
    density = (OverlappingRelaxation(one, SMOOTHINGS[name]).log_unnormalised(zeta) - log_z(one)).exp()
    assert (density * volume).sum().item() == pytest.approx(1.0, abs=3e-4)


@pytest.mark.parametrize("name", SMOOTHINGS)
def test_relaxed_prior_integrates_to_one_less_its_divergence(name):
    """The integral of exp(-KL(m || p(z given zeta))) p(zeta): at most one, and near it."""
    one = machine(2, 2, coupling=1.0)
    zeta, volume = product_rule(name, 4, 8)
    found = OverlappingRelaxation(one, SMOOTHINGS[name], max_iterations=20).log_unnormalised(zeta)
    exact = torch.logsumexp(log_conditional_terms(one, SMOOTHINGS[name], zeta), 1)
    mass, exact_mass = (((value - log_z(one)).exp() * volume).sum().item() for value in (found, exact))
    assert exact_mass == pytest.approx(1.0, abs=2e-3)
    assert 0.97 * exact_mass < mass < exact_mass


@pytest.mark.parametrize("name", SMOOTHINGS)
def test_mean_field_is_below_enumeration_and_nears_it_with_weak_couplings(name):
    """The gap is KL(m || p(z given zeta)) of equation 6: non-negative, zero at W = 0, of second order in W."""
    smoothing, mean_gap = SMOOTHINGS[name], []
    zeta = drawn_zeta(smoothing, 200, 7)
    for coupling in (1.0, 0.2, 0.1, 0.0):
        one = machine(4, 3, coupling)
        prior = OverlappingRelaxation(one, smoothing, max_iterations=100, tolerance=1e-12)
        means = prior.mean_field(zeta)
        assert means.change <= 1e-12
        terms = log_conditional_terms(one, smoothing, zeta)
        gap = torch.logsumexp(terms, 1) - prior.log_unnormalised(zeta)
        assert gap.min() > -1e-9
        m = torch.cat((means.own, means.other), 1).unsqueeze(1)
        log_m = torch.log(torch.where(every_z(7) > 0.5, m, 1 - m).clamp(min=1e-300)).sum(-1)
        divergence = (log_m.exp() * (log_m - torch.log_softmax(terms, 1))).sum(1)
        torch.testing.assert_close(gap, divergence, atol=1e-9, rtol=1e-6)
        mean_gap.append(gap.mean().item())
    assert mean_gap[0] < 0.2  # the paper's figure 2: "typically < 0.2"
    assert mean_gap[2] < 0.3 * mean_gap[1]
    assert abs(mean_gap[3]) < 1e-12


def test_mean_field_is_a_fixed_point_and_counts_its_rounds():
    one, smoothing = machine(4, 3), SMOOTHINGS["exponential"]
    zeta = drawn_zeta(smoothing, 50, 7)
    prior = OverlappingRelaxation(one, smoothing, max_iterations=500, tolerance=1e-13)
    means, (own, other) = prior.mean_field(zeta), smoothing.log_ratio(zeta).split([4, 3], 1)
    torch.testing.assert_close(means.own, torch.sigmoid(one.own + own + means.other @ one.weights.T))
    torch.testing.assert_close(means.other, torch.sigmoid(one.other + other + means.own @ one.weights))
    assert 5 < means.iterations < 500
    five = OverlappingRelaxation(one, smoothing).mean_field(zeta)
    assert five.iterations == 5
    assert means.change <= 1e-13 < five.change
    assert not means.own.requires_grad


def test_each_round_of_mean_field_tightens_the_bound():
    one, smoothing = machine(4, 3, coupling=2.0), SMOOTHINGS["power_function"]
    zeta = drawn_zeta(smoothing, 100, 7)
    bounds = [OverlappingRelaxation(one, smoothing, max_iterations=n).log_unnormalised(zeta) for n in range(1, 8)]
    assert all((after >= before - 1e-10).all() for before, after in itertools.pairwise(bounds))
    assert (bounds[-1] - bounds[0]).max() > 0.01


def test_bound_is_tight_at_the_true_conditional_of_one_unit_fixed():
    """With b = 1000 on the own side it is certain, the other side independent given it: no divergence is left."""
    one, smoothing = machine(2, 3, coupling=2.0), Gaussian(1.0)
    zeta = torch.cat((torch.full((1, 2), 1000.0), torch.tensor([[0.2, 0.6, 0.9]])), 1).double()
    exact = torch.logsumexp(log_conditional_terms(one, smoothing, zeta), 1)
    torch.testing.assert_close(OverlappingRelaxation(one, smoothing).log_unnormalised(zeta), exact)


@pytest.mark.parametrize("name", SMOOTHINGS)
def test_gradient_of_the_overlapping_relaxation(name):
    """Stopped at the mean field, it is nevertheless that of the value, which is stationary there."""
    beta = torch.tensor([7.0], dtype=torch.float64)
    one, smoothing = machine(3, 2), type(SMOOTHINGS[name])(beta)
    zeta = drawn_zeta(SMOOTHINGS[name], 6, 5).clamp(0.05, 0.95)
    prior = OverlappingRelaxation(one, smoothing, max_iterations=500, tolerance=1e-14)
    leaves = {"weights": one.weights, "own": one.own, "other": one.other, "zeta": zeta, "beta": beta}
    check_gradients(lambda: prior.log_unnormalised(zeta).sum(), leaves)


def test_spike_has_no_overlapping_relaxation():
    with pytest.raises(CannotBeDone, match="overlap"):
        OverlappingRelaxation(machine(2, 2), SpikeAndExponential(5.0))
    joint = JointPrior(machine(2, 2), SpikeAndExponential(5.0))
    with pytest.raises(CannotBeDone, match="one group"):
        joint.posterior_logits(torch.zeros(1, 4), torch.zeros(1, 4))


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
