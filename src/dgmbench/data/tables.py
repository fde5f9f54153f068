"""Tables of numbers as text: a known number of rows, and on each the same known number of values."""

import io

import numpy as np

from dgmbench.data.archives import Limits
from dgmbench.errors import UserError

LIMITS = Limits(total=64 << 20)  # more than any text that is read with this
_CHARACTERS = 24  # that one value and its separator may take


def numbers(name: str, content: bytes, rows: int, columns: int, separator: str | None) -> np.ndarray:
    """(rows, columns) of float64 from lines of values; separator None stands for blanks.

    Raises `UserError`, naming the file, where there are more or fewer lines or values, or a value is no number.
    """
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    if lines != rows or len(content) > rows * columns * _CHARACTERS:
        raise UserError(
            f"{name} holds {lines:,} lines in {len(content):,} bytes, not {rows:,} lines of {columns} values: "
            "fetch it again."
        )
    try:
        table = np.loadtxt(io.BytesIO(content), delimiter=separator, comments=None, ndmin=2, encoding="latin-1")
    except ValueError as error:
        raise UserError(f"{name} is not {rows:,} lines of {columns} numbers ({error}): fetch it again.") from error
    if table.shape != (rows, columns):
        raise UserError(f"{name} holds {table.shape} values, not ({rows}, {columns}): fetch it again.")
    return table
