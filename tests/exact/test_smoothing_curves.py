"""Curves and moments of smoothings: closed forms, differences of the inverse, an independent quadrature, samples."""

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import integrate

from dgmbench.data.prepared import Dataset, Split
from dgmbench.estimators import smoothing_curves
from dgmbench.estimators.base import Workbench
from dgmbench.estimators.smoothing_curves import curve, moments
from dgmbench.models.variational import smoothed_unit
from dgmbench.models.variational.smoothing.families import FAMILIES, smoothing

BETAS = {
    "exponential": (1.5, 8.0),
    "uniform_exponential": (2.0, 16.0),
    "power_function": (3.0, 15.0),
    "gaussian": (4.0, 25.0),
    "shifted_gaussian": (4.0, 25.0),
    "spike_and_exponential": (1.5, 6.0),
}
CASES = [(family, beta, q) for family, betas in BETAS.items() for beta in betas for q in (0.5, 0.2)]
SHIFT, EPSILON = 0.1, 0.05


def one(family: str, beta: float):
    return smoothing(family, beta, EPSILON, SHIFT)


def mean_off(family: str, beta: float) -> float:
    """E[zeta given 0] in closed form; by symmetry 1 - E[zeta given 1] where the densities face each other."""
    exponential = 1 / beta - math.exp(-beta) / (1 - math.exp(-beta))
    return {
        "exponential": exponential,
        "uniform_exponential": (1 - EPSILON) * exponential + EPSILON / 2,
        "power_function": 1 / (1 + beta),
        "gaussian": 0.0,
        "shifted_gaussian": 0.0,
        "spike_and_exponential": exponential,
    }[family]


def test_every_family_is_covered():
    assert set(BETAS) == set(FAMILIES)


@pytest.mark.parametrize(("family", "beta", "q"), CASES)
def test_mean_gradient_is_the_difference_of_the_conditional_means(family, beta, q):
    off = mean_off(family, beta)
    expected = 1 - (off if family == "spike_and_exponential" else 2 * off)
    assert moments(one(family, beta), q).mean == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("family", "beta", "q"), [case for case in CASES if case[0] != "shifted_gaussian"])
def test_distance_from_binary_has_its_closed_form(family, beta, q):
    off = mean_off(family, beta)
    expected = off if family != "spike_and_exponential" else q * off
    if family == "gaussian":
        expected = math.sqrt(2 / (math.pi * beta))
    # On the real line |zeta| and |1 - zeta| have a corner inside, where the rule is of second order.
    assert moments(one(family, beta), q).distance == pytest.approx(expected, rel=1e-5 if family == "gaussian" else 1e-8)


@pytest.mark.parametrize(("family", "beta", "q"), CASES)
def test_gradient_variance_is_that_of_adaptive_quadrature_over_zeta(family, beta, q):
    """E[(d zeta / d q)^2] = integral of (R_0 - R_1)^2 / q(zeta) over zeta, where q(zeta) > 0."""
    smooth, logit = one(family, beta), torch.tensor(math.log(q / (1 - q)), dtype=torch.float64)

    def integrand(zeta: float) -> float:
        place = torch.tensor(zeta, dtype=torch.float64)
        off, on = smooth.distributions(place)
        return ((off - on) ** 2 / smooth.mixture_log_prob(place, logit).exp()).item()

    gaussian = "gaussian" in family
    ends = [-9 / math.sqrt(beta), 0.5, 1 + 9 / math.sqrt(beta)] if gaussian else [1e-12, 0.5, 1 - 1e-12]
    square = sum(integrate.quad(integrand, a, b, epsabs=1e-10, limit=200)[0] for a, b in itertools.pairwise(ends))
    found = moments(smooth, q)
    assert found.variance + found.mean**2 == pytest.approx(square, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_variance_is_that_of_draws(family):
    n, q, smooth = 200_000, 0.3, one(family, BETAS[family][0])
    logits = torch.full((n,), math.log(q / (1 - q)), dtype=torch.float64, requires_grad=True)
    zeta = smooth.sample(logits, torch.Generator().manual_seed(11))
    (slope,) = torch.autograd.grad(zeta.sum(), logits)
    gradient = slope / (q * (1 - q))
    square = (gradient - gradient.mean()).square()
    found = moments(smooth, q)
    # Beyond 4.5 standard errors in 150,000 seeds, where the mean of squares is Gaussian.
    assert abs(square.mean().item() - found.variance) < 4.5 * (square.std() / math.sqrt(n)).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_curves_are_the_inverse_and_its_difference_in_q(family):
    smooth, q, step = one(family, BETAS[family][1]), 0.4, 1e-6
    rho = (torch.arange(60, dtype=torch.float64) + 0.5) / 60
    zeta, gradient = curve(smooth, rho, q)
    sides = [curve(smooth, rho, q + s)[0] for s in (step, -step)]
    torch.testing.assert_close(gradient, (sides[0] - sides[1]) / (2 * step), rtol=1e-3, atol=1e-5)
    moving = zeta > 0 if family == "spike_and_exponential" else rho > 0
    level = smooth.cdf(zeta, torch.full_like(rho, math.log(q / (1 - q))))
    # Near 1 the power function's distribution moves by 1e-2 within one spacing of zeta.
    tolerance = 0.1 if family == "power_function" else 1e-9
    torch.testing.assert_close(level[moving], rho[moving], atol=tolerance, rtol=0)


def test_sharper_is_noisier_and_the_power_function_is_less_so_at_equal_distance():
    """The paper's claim, at its own sharpest: exponential beta = 16, power function beta = 40."""
    exponential = [moments(smoothing("exponential", beta), 0.5) for beta in (8.0, 10.0, 12.0, 16.0)]
    assert all(a.variance < b.variance for a, b in itertools.pairwise(exponential))
    power = moments(smoothing("power_function", 40.0), 0.5)
    assert power.distance < exponential[-1].distance
    assert power.variance < exponential[-1].variance / 2


def test_estimator_gives_the_sharpest_and_the_arrays_of_all():
    x = np.zeros((5, 2), dtype=np.float32)
    data = Dataset("made-up", "made-up-1", "binary", (2,), {"train": Split(x), "test": Split(x)}, {})
    model = smoothed_unit.Model(smoothed_unit.Spec(smoothing="gaussian", betas=[30.0, 20.0]), 2)
    settings = smoothing_curves.Settings(q=0.25, points=40)
    found = smoothing_curves.estimate(model, data, settings, Workbench(torch.Generator().manual_seed(0)))
    assert found.arrays["betas"].tolist() == [20.0, 30.0]
    assert found.arrays["zeta"].shape == found.arrays["gradient"].shape == (2, 40)
    expected = moments(smoothing("gaussian", 30.0), 0.25)
    assert {n.metric: n.value for n in found.numbers} == {
        "gradient_variance": expected.variance,
        "distance": expected.distance,
    }
    assert found.arrays["gradient_variance"][-1] == expected.variance


def test_a_power_function_that_does_not_face_its_ends_and_betas_twice_are_refused():
    with pytest.raises(ValidationError, match="beta above 1"):
        smoothed_unit.Spec(smoothing="power_function", betas=[0.5])
    with pytest.raises(ValidationError, match="each inverse temperature once"):
        smoothed_unit.Spec(betas=[8.0, 8.0])
