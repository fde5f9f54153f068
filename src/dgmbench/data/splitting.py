"""Which rows make which split, where a dataset comes without canonical splits."""

import numpy as np

from dgmbench.data.draws import permutation, stream
from dgmbench.data.loading import SPLITS
from dgmbench.errors import UserError


def split_rows(n: int, validation: int, test: int, seed: int) -> dict[str, np.ndarray]:
    """Row numbers (m,) of each split: consecutive pieces of one seeded permutation of 0 ... n - 1.

    Splits without rows are left out. Raises `UserError` where nothing is left to train on.
    """
    if validation + test >= n:
        raise UserError(
            f"{n:,} rows cannot give {validation:,} for validation and {test:,} for testing with some left to train "
            "on: lower `validation` or `test`."
        )
    train = n - validation - test
    pieces = np.split(permutation(stream(seed), n), [train, train + validation])
    return {split: rows for split, rows in zip(SPLITS, pieces) if len(rows)}


def nonempty(**rows: int) -> tuple[str, ...]:
    """Names of the splits that have rows: `nonempty(train=1440, validation=0, test=0)` is `("train",)`."""
    return tuple(split for split in SPLITS if rows.get(split, 0) > 0)
