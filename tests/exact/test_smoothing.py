"""Smoothings of binary variables: quadrature, sampler against distribution function, gradients by differences."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from dgmbench.models.variational.smoothing.base import Smoothing
from dgmbench.models.variational.smoothing.exponential import Exponential
from dgmbench.models.variational.smoothing.gaussian import Gaussian
from dgmbench.models.variational.smoothing.power_function import PowerFunction
from dgmbench.models.variational.smoothing.shifted_gaussian import ShiftedGaussian
from dgmbench.models.variational.smoothing.spike_and_exponential import SpikeAndExponential
from dgmbench.models.variational.smoothing.uniform_exponential import UniformExponential

FAMILIES = {
    "exponential": (Exponential, {"beta": 6.0}),
    "uniform_exponential": (UniformExponential, {"beta": 9.0, "epsilon": 0.1}),
    "power_function": (PowerFunction, {"beta": 4.0}),
    "gaussian": (Gaussian, {"beta": 12.0}),
    "shifted_gaussian": (ShiftedGaussian, {"beta": 15.0, "shift": 0.2}),
    "spike_and_exponential": (SpikeAndExponential, {"beta": 5.0}),
}
# As sharp as training has them, see `_discrete_training`; the sharpest of each.
SHARPEST = {
    "exponential": {"beta": 14.0},
    "uniform_exponential": {"beta": 40.0, "epsilon": 0.05},
    "power_function": {"beta": 40.0},
    "gaussian": {"beta": 40.0},
    "shifted_gaussian": {"beta": 400.0, "shift": -0.25},
    "spike_and_exponential": {"beta": 5.0},
}
BOUNDED = [name for name in FAMILIES if "gaussian" not in name]
OVERLAPPING = [name for name in FAMILIES if name != "spike_and_exponential"]
every_family = pytest.mark.parametrize("name", FAMILIES)


def smoothing(name: str, **changed: Tensor | float) -> Smoothing:
    family, values = FAMILIES[name]
    return family(**{**values, **changed})


def double(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def grid(name: str) -> tuple[Tensor, Tensor]:
    """Places inside the support, and the lengths of the trapezium rule there: even in the logit on (0, 1)."""
    if name in BOUNDED:
        t = torch.linspace(-27, 27, 20_001, dtype=torch.float64)
        return torch.sigmoid(t), torch.sigmoid(t) * torch.sigmoid(-t) * (t[1] - t[0])
    zeta = torch.linspace(-6, 7, 20_001, dtype=torch.float64)
    return zeta, torch.full_like(zeta, (zeta[1] - zeta[0]).item())


@every_family
@pytest.mark.parametrize("z", [0, 1])
def test_density_integrates_to_its_distribution(name, z):
    """Between any two places; with R = 0 and R = 1 at the ends of the support, to one over all of it."""
    one = smoothing(name)
    zeta, length = grid(name)
    ends = double([0.0, 1.0] if name in BOUNDED else [-30.0, 30.0])
    at_ends = one.distributions(ends)[z]
    if (name, z) == ("spike_and_exponential", 0):
        assert torch.equal(one.log_prob(torch.zeros(1), torch.zeros(1)).exp(), torch.ones(1))
        assert torch.equal(one.log_prob(zeta, torch.zeros_like(zeta)).exp(), torch.zeros_like(zeta))
        assert at_ends.tolist() == [1.0, 1.0]
        return
    density = one.log_prob(zeta, torch.full_like(zeta, z)).exp() * length
    mass = torch.cumsum(0.5 * (density[1:] + density[:-1]), 0)
    distribution = one.distributions(zeta)[z]
    torch.testing.assert_close(mass, distribution[1:] - distribution[0], atol=2e-6, rtol=0)
    torch.testing.assert_close(at_ends, double([0.0, 1.0]), atol=1e-12, rtol=0)


@every_family
def test_mixture_is_the_weighted_sum(name):
    one, logits = smoothing(name), double([-3.0, 0.4, 2.0]).unsqueeze(1)
    zeta = double([0.0, 0.05, 0.5, 0.97])
    zeta = zeta if name == "spike_and_exponential" else zeta[1:]
    q = torch.sigmoid(logits)
    off, on = (one.log_prob(zeta, torch.full_like(zeta, z)).exp() for z in (0, 1))
    torch.testing.assert_close(one.mixture_log_prob(zeta, logits).exp(), (1 - q) * off + q * on)
    r_off, r_on = one.distributions(zeta)
    torch.testing.assert_close(one.cdf(zeta, logits), (1 - q) * r_off + q * r_on)


@pytest.mark.parametrize("name", OVERLAPPING)
def test_log_ratio_is_the_log_odds_that_zeta_adds(name):
    one, zeta = smoothing(name), double([0.03, 0.4, 0.8])
    expected = one.log_prob(zeta, torch.ones(3)) - one.log_prob(zeta, torch.zeros(3))
    torch.testing.assert_close(one.log_ratio(zeta), expected)


@pytest.mark.parametrize("name", ["exponential", "uniform_exponential", "power_function", "gaussian"])
def test_the_two_densities_mirror_each_other(name):
    one, zeta = smoothing(name), double([0.03, 0.4, 0.8])
    torch.testing.assert_close(one.log_densities(zeta)[1], one.log_densities(1 - zeta)[0])
    torch.testing.assert_close(one.distributions(zeta)[1], 1 - one.distributions(1 - zeta)[0])


@every_family
def test_quantile_inverts_the_distribution(name):
    one = smoothing(name)
    rho = torch.linspace(0.003, 0.997, 200, dtype=torch.float64)
    for logit in (-30.0, -2.0, 0.0, 1.3, 30.0):
        logits = torch.full_like(rho, logit)
        zeta = one.icdf(rho, logits)
        spike = (zeta == 0) & (rho <= torch.sigmoid(-logits))
        assert bool(spike.any()) == (name == "spike_and_exponential" and logit < 3)
        assert (zeta.diff() >= 0).all()
        # Near 1 the spacing of zeta itself, 1e-16, is 1e-4 of the power function's distribution at beta = 4.
        tolerance = 2e-4 if name == "power_function" else 1e-10
        torch.testing.assert_close(one.cdf(zeta, logits)[~spike], rho[~spike], atol=tolerance, rtol=0)


@every_family
def test_closed_form_quantile_is_that_of_bisection(name):
    one = smoothing(name)
    rho = torch.linspace(0.02, 0.98, 50, dtype=torch.float64)
    logits = torch.linspace(1.0, -1.0, 50, dtype=torch.float64)
    moving = rho > torch.sigmoid(-logits) if name == "spike_and_exponential" else rho > 0
    found = Smoothing.quantile(one, rho, logits)
    torch.testing.assert_close(one.quantile(rho, logits)[moving], found[moving], atol=1e-12, rtol=0)


@every_family
def test_draws_follow_the_distribution(name):
    one, n = smoothing(name), 20_000
    generator = torch.Generator().manual_seed(1)
    for logit in (-1.5, 0.7):
        logits = torch.full((n,), logit, dtype=torch.float64)
        zeta = one.sample(logits, generator)
        level = one.cdf(zeta, logits)
        if name == "spike_and_exponential":
            # The mass at 0 is spread evenly over the levels that it covers.
            spread = torch.rand(n, generator=generator, dtype=torch.float64)
            level = torch.where(zeta == 0, spread * level, level)
        # Kolmogorov-Smirnov: false alarms in 1 of 10,000 seeds.
        assert scipy.stats.kstest(level.numpy(), "uniform").pvalue > 1e-4


@every_family
def test_the_sharpest_draws_in_single_precision_follow_the_distribution(name):
    """With what is drawn at either end of (0, 1), where zeta is clipped, spread over the levels beyond."""
    one, n, logit = smoothing(name, **SHARPEST[name]), 4000, 0.7
    generator, end = torch.Generator().manual_seed(5), torch.finfo(torch.float32).eps
    zeta = one.sample(torch.full((n,), logit), generator)
    assert zeta.dtype == torch.float32
    logits = torch.full((n,), logit, dtype=torch.float64)
    level = one.cdf(zeta.double(), logits)
    if name in BOUNDED:
        low, high = (one.cdf(double([place]), logits[:1]) for place in (end, 1 - end))
        spread = torch.rand(n, generator=generator, dtype=torch.float64)
        level = torch.where(zeta <= end, spread * low, torch.where(zeta >= 1 - end, high + spread * (1 - high), level))
    # Kolmogorov-Smirnov: false alarms in 1 of 10,000 seeds. The power function's neighbours of 1 are levels that are
    # up to 0.012 apart, where the test would see 0.035.
    assert scipy.stats.kstest(level.numpy(), "uniform").pvalue > 1e-4


@every_family
def test_same_generator_same_draws(name):
    one, logits = smoothing(name), torch.linspace(-2, 2, 50)
    drawn = [one.sample(logits, torch.Generator().manual_seed(2)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert drawn[0].dtype == torch.float32


def parameters() -> list[tuple[str, str]]:
    return [(name, parameter) for name, (_, values) in FAMILIES.items() for parameter in ["logits", *values]]


@pytest.mark.parametrize("sharp", [False, True], ids=["mild", "sharpest"])
@pytest.mark.parametrize(("name", "parameter"), parameters())
def test_implicit_gradient_is_that_of_the_inverse(name, parameter, sharp):
    """Central differences of F^-1(rho) at fixed rho, where zeta is not clipped."""
    rho = torch.linspace(0.04, 0.96, 24, dtype=torch.float64)
    values = {"logits": 0.6, **FAMILIES[name][1], **(SHARPEST[name] if sharp else {})}

    def inverse(value: Tensor) -> Tensor:
        changed = {**values, parameter: value}
        logits = torch.as_tensor(changed.pop("logits"), dtype=torch.float64).expand(rho.shape)
        return smoothing(name, **changed).icdf(rho, logits)

    value = torch.full_like(rho, values[parameter]).requires_grad_(True)
    zeta = inverse(value)
    zeta.sum().backward()
    step = 1e-5
    with torch.no_grad():
        difference = (inverse(value + step) - inverse(value - step)) / (2 * step)
    inside = (
        (zeta > 1e-12) & (zeta < 1 - 1e-12) if sharp and name in BOUNDED else torch.ones_like(zeta, dtype=torch.bool)
    )
    assert inside.sum() > 6
    torch.testing.assert_close(value.grad[inside], difference[inside], rtol=1e-4, atol=1e-7)
    assert value.grad[inside].abs().max() > 1e-4


@every_family
def test_gradient_of_a_mean_of_draws(name):
    """d E[zeta] / d logit = q (1 - q) (E[zeta given 1] - E[zeta given 0]), from the gradients of ancestral draws."""
    one, n, logit = smoothing(name), 100_000, 0.4
    logits = torch.full((n,), logit, dtype=torch.float64, requires_grad=True)
    zeta = one.sample(logits, torch.Generator().manual_seed(3))
    zeta.sum().backward()
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    off, on = one.draws(u)
    q = 1 / (1 + math.exp(-logit))
    expected = q * (1 - q) * (on.mean() - off.mean())
    standard_error = logits.grad.std() / math.sqrt(n)
    # Beyond 4.5 standard errors in 150,000 seeds.
    assert abs(logits.grad.mean() - expected) < 4.5 * standard_error
    assert standard_error < 0.01


def test_shift_moves_a_draw_by_itself():
    shift = torch.full((50,), 0.3, dtype=torch.float64, requires_grad=True)
    one = ShiftedGaussian(20.0, shift)
    zeta = one.sample(torch.linspace(-3, 3, 50, dtype=torch.float64), torch.Generator().manual_seed(4))
    zeta.sum().backward()
    torch.testing.assert_close(shift.grad, torch.ones_like(shift), rtol=1e-9, atol=0)
    unmoved = Gaussian(20.0).sample(torch.linspace(-3, 3, 50, dtype=torch.float64), torch.Generator().manual_seed(4))
    torch.testing.assert_close(zeta.detach(), unmoved + 0.3)


@pytest.mark.parametrize("name", OVERLAPPING)
def test_density_of_a_draw_is_differentiable_in_all(name):
    """d/dt log q(zeta(t); t) at fixed rho, for t the logit: through zeta and directly."""
    one = smoothing(name)
    rho = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    logits = torch.linspace(-1, 1, 19, dtype=torch.float64, requires_grad=True)
    one.mixture_log_prob(one.icdf(rho, logits), logits).sum().backward()
    step = 1e-5
    with torch.no_grad():
        sides = [one.mixture_log_prob(one.icdf(rho, logits + s), logits + s) for s in (step, -step)]
    torch.testing.assert_close(logits.grad, (sides[0] - sides[1]) / (2 * step), rtol=1e-4, atol=1e-6)


@every_family
def test_sharp_limit_is_a_bernoulli_variable(name):
    sharp = {"beta": 3e4} | ({"shift": 0.0} if name == "shifted_gaussian" else {})
    logits = torch.full((40_000,), 0.8, dtype=torch.float64)
    one, q = smoothing(name, **sharp), torch.sigmoid(logits[0]).item()
    epsilon = FAMILIES[name][1].get("epsilon", 0.0)
    ends = torch.full((2,), 0.8, dtype=torch.float64)
    low, high = one.cdf(double([0.05, 0.95]), ends).tolist()
    # The uniform share epsilon stays; all other mass is within 0.05 of 0 or 1 (power function: but for 1e-4 of it).
    assert low == pytest.approx((1 - epsilon) * (1 - q) + 0.05 * epsilon, abs=2e-4)
    assert high == pytest.approx((1 - epsilon) * (1 - q) + 0.95 * epsilon, abs=2e-4)
    zeta = one.sample(logits, torch.Generator().manual_seed(5))
    rate = (zeta > 0.5).double().mean().item()
    expected = (1 - epsilon) * q + epsilon / 2
    # Beyond 4.5 standard errors in 150,000 seeds.
    assert abs(rate - expected) < 4.5 * math.sqrt(expected * (1 - expected) / len(zeta))


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [2.0, 40.0, 200.0])
def test_extreme_logits_and_sharpness_stay_finite(name, dtype, beta):
    leaf = torch.tensor(beta, dtype=dtype, requires_grad=True)
    one = smoothing(name, beta=leaf)
    logits = double([-200, -90, -20, -1, 0, 1, 20, 90, 200]).to(dtype).repeat(200, 1).requires_grad_(True)
    zeta = one.sample(logits, torch.Generator().manual_seed(6))
    log_q = one.mixture_log_prob(zeta, logits)
    (zeta.sum() + log_q.sum()).backward()
    for value in (zeta, log_q, logits.grad, leaf.grad):
        assert torch.isfinite(value).all()
    assert zeta.dtype == dtype
    rho = torch.linspace(0.001, 0.999, 200, dtype=dtype).unsqueeze(1).expand(logits.shape)
    found = one.icdf(rho, logits.detach())
    assert torch.isfinite(found).all()
    if name in BOUNDED:
        for value in (zeta, found):
            assert ((value >= 0) & (value <= 1)).all()


def test_power_function_draws_keep_off_the_ends():
    """At beta = 40 in float32 more than half of z = 1 round to 1, where the density is infinite: they are clipped."""
    logits = torch.full((2000,), 20.0)
    zeta = PowerFunction(40.0).sample(logits, torch.Generator().manual_seed(7))
    assert zeta.max().item() == float(np.float32(1) - np.finfo(np.float32).eps)
    assert 0.5 < (zeta == zeta.max()).double().mean() < 0.8
