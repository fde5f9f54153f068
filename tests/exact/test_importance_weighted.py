"""The importance-weighted bound on models whose likelihood is known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import importance_weighted
from dgmbench.estimators.base import Workbench
from dgmbench.models.base import LatentVariable


class LinearGaussian(LatentVariable):
    """z from N(0, 1), x from N(z, 1), so that p(x) = N(0, 2) and p(z given x) = N(x / 2, 1 / 2).

    The proposal is N(x / 2, variance): with variance 1/2 it is the posterior, and every weight is p(x).
    """

    def __init__(self, variance: float):
        self.variance = variance
        self.calls: list[int] = []

    def log_weights(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        self.calls.append(k * len(x))
        mean = x[:, 0].double() / 2
        z = mean + math.sqrt(self.variance) * torch.randn(k, len(x), generator=generator, dtype=torch.float64)
        log_joint = -0.5 * z**2 - 0.5 * (x[:, 0] - z) ** 2 - math.log(2 * math.pi)
        return log_joint + 0.5 * (z - mean) ** 2 / self.variance + 0.5 * math.log(2 * math.pi * self.variance)

    def elbo(self, x: np.ndarray) -> np.ndarray:
        """log p(x) - KL(q || posterior), in closed form for two Gaussians of equal mean."""
        ratio = 2 * self.variance
        return log_prob(x) - 0.5 * (ratio - 1 - math.log(ratio))


def log_prob(x: np.ndarray) -> np.ndarray:
    return -(x[:, 0] ** 2) / 4 - 0.5 * math.log(4 * math.pi)


def dataset(n: int) -> Dataset:
    x = np.random.default_rng(0).normal(size=(n, 1)).astype(np.float32)
    return Dataset("line", "line", "real", (1,), {"test": Split(x), "validation": Split(x[::-1].copy())}, {})


def estimate(model: LatentVariable, data: Dataset, seed: int = 0, **settings):
    bench = Workbench(torch.Generator().manual_seed(seed))
    return importance_weighted.estimate(model, data, importance_weighted.Settings(**settings), bench).numbers[0]


@pytest.mark.parametrize("k", [1, 7, 100])
def test_exact_with_the_posterior_as_proposal(k):
    data = dataset(30)
    number = estimate(LinearGaussian(0.5), data, k=k, rows_per_call=13)
    np.testing.assert_allclose(number.per_example, log_prob(data.test.x), atol=1e-6)
    if k == 1:
        assert number.estimator_se is None, "one draw cannot tell its own spread"
    else:
        assert number.estimator_se < 1e-6
    assert number.evidence["effective_sample_size_min"] == pytest.approx(k)
    assert number.converged is (None if k == 1 else True)
    assert number.value == pytest.approx(number.per_example.mean())


def test_one_sample_is_the_elbo_in_expectation():
    data, model = dataset(2000), LinearGaussian(1.5)
    values = [estimate(model, data, seed, k=1).value for seed in range(40)]
    standard_error = np.std(values, ddof=1) / math.sqrt(40)
    # Student's t with 39 degrees of freedom beyond 5: a false alarm in 80,000 seeds.
    assert abs(np.mean(values) - model.elbo(data.test.x).mean()) < 5 * standard_error


def test_bound_rises_to_the_likelihood_and_says_how_far_it_has_come():
    data, model = dataset(200), LinearGaussian(1.5)
    numbers = {k: estimate(model, data, k=k) for k in (2, 20, 2000)}
    exact = log_prob(data.test.x).mean()
    for number in numbers.values():
        evidence = number.evidence
        tenth = evidence[f"bound_k_{max(1, evidence['k'] // 10)}"]
        # Deterministic (Jensen): disjoint groups of the same draws.
        assert tenth <= evidence[f"bound_k_{evidence['k'] // 2}"] <= number.value
    # At k = 2,000 bias and error are both below 0.003: five standard errors are a false alarm in 10^6.
    assert abs(numbers[2000].value - exact) < 5 * numbers[2000].estimator_se + 1e-3
    assert numbers[2].value < numbers[20].value < numbers[2000].value
    assert numbers[2000].converged
    assert not numbers[2].converged


def test_stated_error_is_the_scatter_over_repetitions():
    data, model = dataset(20), LinearGaussian(1.0)
    numbers = [estimate(model, data, seed, k=400) for seed in range(200)]
    scatter = np.std([number.value for number in numbers], ddof=1)
    stated = np.mean([number.estimator_se for number in numbers])
    # A standard deviation from 200 draws has a relative error of 5 %: 25 % is five of them.
    assert stated == pytest.approx(scatter, rel=0.25)


@pytest.mark.parametrize(("k", "rows_per_call"), [(10, 35), (10, 1), (50, 20)])
def test_pieces_are_bounded_and_cover_every_draw(k, rows_per_call):
    data, model = dataset(11), LinearGaussian(1.0)
    number = estimate(model, data, k=k, rows_per_call=rows_per_call)
    assert max(model.calls) <= rows_per_call
    assert sum(model.calls) == 11 * k
    assert number.per_example.shape == (11,)
    # Chunking changes which random numbers an example gets, not what is estimated: 6 combined errors.
    whole = estimate(LinearGaussian(1.0), data, k=k, rows_per_call=10_000)
    assert abs(number.value - whole.value) < 6 * math.hypot(number.estimator_se, whole.estimator_se)


def test_split_and_number_of_examples_are_the_settings():
    data, model = dataset(11), LinearGaussian(0.5)
    number = estimate(model, data, k=3, split="validation", examples=4)
    np.testing.assert_allclose(number.per_example, log_prob(data.validation.x[:4]), atol=1e-6)


def test_group_bounds_and_effective_sample_size_by_hand():
    weights = torch.tensor([[1.0], [3.0], [2.0], [6.0], [9.0]], dtype=torch.float64)
    pairs = importance_weighted.bound_of_groups(weights.log(), 2)
    assert pairs.item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert importance_weighted.log_mean_exp(weights.log()).item() == pytest.approx(math.log(21 / 5))
    assert importance_weighted.effective_sample_size(weights.log()).item() == pytest.approx(21**2 / 131)


def test_weights_without_probability_are_refused():
    class Impossible(LatentVariable):
        def log_weights(self, x, k, generator):
            return torch.full((k, len(x)), -math.inf)

    with pytest.raises(CannotBeDone, match="not finite"):
        estimate(Impossible(), dataset(3), k=5)


@pytest.mark.parametrize(("k", "sd"), [(2, 0.5), (10, 0.5), (10, 1.0), (100, 1.0)])
def test_the_jackknife_variance_is_that_of_repeated_draws(k, sd):
    """Log-normal weights, 20,000 repetitions: the mean estimate is at least 0.85 and at most 1.6 of the truth.

    The estimate is too large rather than too small in expectation (Efron and Stein 1981); the heaviest tail here
    leaves both sides within 5 % of their means, so that a false alarm is beyond four standard deviations.
    """
    log_weights = sd * torch.randn(k, 20_000, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    truth = importance_weighted.log_mean_exp(log_weights).var()
    estimated = importance_weighted.jackknife_variance(log_weights).mean()
    assert 0.85 * truth < estimated < 1.6 * truth


def bounds_without_one(log_weights: Tensor) -> Tensor:
    """log mean w with each draw left out in turn: (k, n) -> (k, n)."""
    k = len(log_weights)
    kept = [[i for i in range(k) if i != j] for j in range(k)]
    return torch.stack([importance_weighted.log_mean_exp(log_weights[rows]) for rows in kept])


def test_the_jackknife_variance_is_the_textbook_one_and_stays_finite():
    log_weights = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left_out = bounds_without_one(log_weights)
    expected = 6 / 7 * (left_out - left_out.mean(0)).square().sum(0)
    assert torch.allclose(importance_weighted.jackknife_variance(log_weights), expected, rtol=1e-9)
    one_carries_all = torch.tensor([[0.0], [-50.0], [-60.0]], dtype=torch.float64)
    left_out = bounds_without_one(one_carries_all)
    expected = 2 / 3 * (left_out - left_out.mean(0)).square().sum(0)
    assert torch.allclose(importance_weighted.jackknife_variance(one_carries_all), expected, rtol=1e-6)
