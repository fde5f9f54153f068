"""Grids: every combination of values, and how the rows and columns that come of them are named."""

import itertools
from collections.abc import Iterator
from typing import Any


def combinations(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of a grid's values, the last key varying fastest: {} alone for an empty grid."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values))


def spell(parameters: dict[str, Any]) -> str:
    """`components=64 ridge=0.1`: how rows and columns are named."""
    return " ".join(f"{name}={value}" for name, value in parameters.items())
