"""Seeded splits: every row in one split, the same ones for the same seed."""

import numpy as np
import pytest

from dgmbench.data.splitting import nonempty, split_rows
from dgmbench.errors import UserError


@pytest.mark.parametrize(("n", "validation", "test"), [(10, 3, 2), (1000, 1, 998), (1, 0, 0), (7, 0, 3), (7, 3, 0)])
def test_every_row_is_in_one_split(n, validation, test):
    found = split_rows(n, validation, test, 0)
    sizes = {"train": n - validation - test, "validation": validation, "test": test}
    assert {split: len(rows) for split, rows in found.items()} == {s: size for s, size in sizes.items() if size}
    np.testing.assert_array_equal(np.sort(np.concatenate(list(found.values()))), np.arange(n))
    assert tuple(found) == nonempty(**sizes)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    one, again, other = (split_rows(500, 50, 50, seed) for seed in (3, 3, 4))
    for split in one:
        np.testing.assert_array_equal(one[split], again[split])
        assert not np.array_equal(one[split], other[split])


def test_the_rows_are_pinned():
    """Prepared datasets depend on these: numpy and machines may change, they may not."""
    found = split_rows(12, 3, 4, 5)
    told = {split: rows.tolist() for split, rows in found.items()}
    assert told == {
        "train": [7, 8, 4, 11, 3],
        "validation": [5, 6, 2],
        "test": [10, 0, 1, 9],
    }


def test_more_validation_rows_do_not_change_which_rows_test():
    few, many = split_rows(100, 10, 20, 0), split_rows(100, 30, 20, 0)
    np.testing.assert_array_equal(few["test"], many["test"])


def test_each_row_tests_equally_often():
    times = np.zeros(20)
    for seed in range(2000):
        times[split_rows(20, 5, 5, seed)["test"]] += 1
    # Binomial(2000, 1/4) has the standard deviation 19.4; five of them in 20 counts: a false alarm in 90,000.
    assert np.abs(times - 500).max() < 5 * 19.4


@pytest.mark.parametrize(("n", "validation", "test"), [(5, 3, 2), (5, 5, 0), (5, 0, 6), (0, 0, 0)])
def test_nothing_left_to_train_on_is_told(n, validation, test):
    with pytest.raises(UserError, match=f"{n} rows cannot give {validation} for validation and {test} for testing"):
        split_rows(n, validation, test, 0)


def test_names_of_splits_come_in_their_order():
    assert nonempty(test=1, train=5, validation=0) == ("train", "test")
    assert nonempty(train=0) == ()
