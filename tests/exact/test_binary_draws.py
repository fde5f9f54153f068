"""Bernoulli draws from 16 fresh and 16 shared bits: their probabilities, counted; independence, by chi-square."""

import math

import pytest
import torch

from dgmbench.models.boltzmann import _binary
from dgmbench.models.boltzmann._binary import SHARED, Draws, draw, threshold

PROBABILITIES = [0.0, 1e-9, 1e-6, 2**-17, 1e-4, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.999, 1 - 1e-6, 1 - 2**-24, 1.0]


def ones_by_low_bits(probability: float) -> torch.Tensor:
    """How many of the 2^16 integers are drawn as 1, for each of the 2^16 values of the low bits: float64."""
    minus_low = torch.arange(2.0**16) / -(2.0**16)
    levels = threshold(torch.full((2**16,), probability), minus_low)
    return levels.double().ceil().clamp(0, 2**16)


@pytest.mark.parametrize("probability", PROBABILITIES)
def test_a_probability_is_met_to_the_stated_resolution(probability):
    exact = torch.tensor(probability).double().item()  # what the float32 says
    met = (ones_by_low_bits(probability) / 2**16).mean().item()
    assert abs(met - exact) <= 2**-32 + 2**-24 * exact


@pytest.mark.parametrize("probability", PROBABILITIES)
def test_two_draws_that_share_their_low_bits_are_independent_to_the_stated_resolution(probability):
    given_low = ones_by_low_bits(probability) / 2**16
    joint = (given_low * given_low).mean() - given_low.mean() ** 2
    assert joint <= 2**-32


@pytest.mark.parametrize("probability", [1e-6, 2**-18, 1 - 2**-18])
def test_rare_outcomes_come_as_often_as_they_should(probability):
    draws, count, times = Draws(torch.Generator().manual_seed(3)), 4_000_000, 20
    rare = min(probability, 1 - probability)
    wanted = torch.full((count,), probability)
    ones = sum(int(draws.of(wanted).sum(dtype=torch.float64)) for _ in range(times))
    seen = ones if probability < 0.5 else count * times - ones
    # Binomial, about 80 and 305 expected: beyond 5 standard deviations in 2e-6 of all seeds.
    assert abs(seen - count * times * rare) < 5 * math.sqrt(count * times * rare)


def test_impossible_and_certain_outcomes():
    draws = Draws(torch.Generator().manual_seed(1))
    for _ in range(SHARED + 2):
        assert draws.of(torch.zeros(10_000)).sum() == 0
        assert draws.of(torch.ones(10_000)).sum() == 10_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbours_and_successive_draws_are_independent(dtype):
    """Every pattern of three neighbours in two successive draws, over planes that are shared and renewed."""
    probability = torch.tensor([0.3, 0.5, 0.9], dtype=dtype)
    draws, rows = Draws(torch.Generator().manual_seed(4)), 4000
    taken = torch.stack([draws.of(probability.expand(rows, 3)) for _ in range(2 * SHARED + 2)])
    patterns = torch.cat([taken[0::2], taken[1::2]], 2).reshape(-1, 6)
    observed = torch.bincount((patterns.double() @ (2.0 ** torch.arange(6)).double()).long(), minlength=64)
    bits = (torch.arange(64)[:, None] >> torch.arange(6)) & 1
    twice = torch.cat([probability, probability]).double()
    expected = len(patterns) * torch.where(bits > 0, twice, 1 - twice).prod(1)
    # P(chi-square with 63 degrees of freedom > 125) = 5e-6.
    assert ((observed - expected) ** 2 / expected).sum() < 125


def test_bits_are_uniform():
    integers = Draws(torch.Generator().manual_seed(5)).random_integers(1_000_003)
    assert len(integers) == 1_000_003
    for shift in (0, 8):
        observed = torch.bincount(integers.to(torch.int64) >> shift & 255, minlength=256).double()
        expected = len(integers) / 256
        # P(chi-square with 255 degrees of freedom > 365) = 8e-6.
        assert ((observed - expected) ** 2 / expected).sum() < 365


def test_draws_depend_on_the_generator_alone_and_take_one_number_of_it():
    p = torch.rand(50, 7, generator=torch.Generator().manual_seed(1))
    a, b, c = (torch.Generator().manual_seed(seed) for seed in (2, 2, 3))
    first = draw(p, a)
    assert torch.equal(first, draw(p, b))
    assert not torch.equal(first, draw(p, c))
    assert not torch.equal(first, draw(p, a))
    torch.randint(2**63 - 1, (), generator=b)
    assert torch.equal(a.get_state(), b.get_state())


def test_probabilities_are_left_as_they_were_and_any_layout_is_taken():
    p = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    before = p.clone()
    draws = Draws(torch.Generator().manual_seed(2))
    assert draws.of(p.T).shape == (4, 6)
    assert draws.of(p[:, 1].expand(3, -1)).shape == (3, 6)
    assert torch.equal(p, before)
    held = torch.empty(6, 4)
    assert draws.of(p, held) is held
    assert set(held.unique().tolist()) <= {0.0, 1.0}


def test_larger_draws_after_smaller_ones_get_low_bits_of_their_own():
    draws = Draws(torch.Generator().manual_seed(6))
    draws.of(torch.full((10,), 0.5))
    draws.of(torch.full((1000,), 0.5))
    low = -draws._minus_low
    assert len(low) == 1000
    assert 0 <= low.min() < 0.05
    assert 0.95 < low.max() < 1
    assert _binary.SHARED == 16
