"""Overlapping relaxations of Boltzmann priors against enumeration of z, quadrature over zeta, and differences."""

import itertools

import boltzmann_priors as made
import pytest
import torch

from dgmbench.errors import CannotBeDone
from dgmbench.models.variational._boltzmann_prior import (
    JointPrior,
    OverlappingRelaxation,
    log_unnormalised,
    mean_log_unnormalised,
)
from dgmbench.models.variational.smoothing.gaussian import Gaussian
from dgmbench.models.variational.smoothing.spike_and_exponential import SpikeAndExponential

SMOOTHINGS, check_gradients, drawn_zeta = made.SMOOTHINGS, made.check_gradients, made.drawn_zeta
every_z, log_conditional_terms, log_z, machine = made.every_z, made.log_conditional_terms, made.log_z, made.machine
negative_energy, product_rule = made.negative_energy, made.product_rule


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
