"""Standard errors over examples and over groups, against closed forms and repeated sampling."""

import numpy as np
import pytest

from dgmbench.uncertainty import bootstrap_means, group_sums, standard_error


def test_without_groups_it_is_the_textbook_one():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    assert standard_error(values, None) == (pytest.approx(values.std(ddof=1) / 2), None)


def test_one_example_or_one_group_says_nothing():
    assert standard_error(np.array([1.0]), None) == (None, None)
    assert standard_error(np.array([1.0, 2.0]), np.array([7, 7])) == (None, 1)


@pytest.mark.parametrize("groups", [2, 3, 5, 50])
def test_over_groups_it_agrees_with_the_closed_form(groups):
    """Groups of one size: sd of the group means / sqrt(G). 2,000 resamples leave 1.6 % (four sigma: 6.5 %)."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(groups, 20)) + 3 * rng.normal(size=(groups, 1))
    se, found = standard_error(values.ravel(), np.repeat(np.arange(groups), 20))
    assert found == groups
    assert se == pytest.approx(values.mean(1).std(ddof=1) / np.sqrt(groups), rel=0.065)


def test_it_is_the_spread_of_repeated_data_sets():
    """30 groups of unequal sizes drawn anew 400 times. Mean square se against the true variance: within 15 %."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(5, 40, size=30)
    groups = np.repeat(np.arange(30), sizes)
    means, squares = [], []
    for _ in range(400):
        values = rng.normal(size=len(groups)) + 2 * rng.normal(size=30)[groups]
        means.append(values.mean())
        squares.append(standard_error(values, groups)[0] ** 2)
    assert np.mean(squares) == pytest.approx(np.var(means, ddof=1), rel=0.15)


def test_the_resamples_are_the_same_every_time():
    sums, counts = group_sums(np.arange(6.0), np.array([0, 0, 1, 1, 2, 2]))
    assert sums.tolist() == [1.0, 5.0, 9.0]
    assert counts.tolist() == [2, 2, 2]
    assert np.array_equal(bootstrap_means(sums, counts), bootstrap_means(sums, counts))
