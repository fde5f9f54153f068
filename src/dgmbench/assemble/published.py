"""Published numbers: one row of one file of results/published, found by what an experiment's row says."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from dgmbench.errors import UserError, nearest
from dgmbench.schemas import PublishedCell

UNVERIFIED = "unverified"  # a file's own word, in its column `known`, for a number that nobody has looked up
MEASURED = "measured"  # the same for one that stands nowhere in print: what a published program gave
_CAVEATS = {UNVERIFIED: UNVERIFIED, MEASURED: "measured, not published"}


@dataclass(frozen=True)
class Published:
    """A number as printed (times the stated scale), with what is needed to compare with it."""

    value: float
    spread: float | None
    kind: str
    tolerance: float
    protocol: str  # ends with a caveat where the file says so
    source: str  # file, row and column, and the file's own `source` where it has one


def look_up(cell: PublishedCell, fill: dict[str, Any], folder: Path, where: str) -> Published:
    """The published number of a cell; `fill` gives the values of the `{name}` placeholders.

    Raises:
        UserError: no such file, column, placeholder or row, more than one row, another kind, or a value that is no
            number.
    """
    path, rows = file_of(cell, folder, where)
    wanted = {name: _filled(value, fill, where) for name, value in cell.where.items()}
    matching = [row for row in rows if all(_equal(row[name], value) for name, value in wanted.items())]
    if len(matching) != 1:
        asked = ", ".join(f"{name}: {value}" for name, value in wanted.items())
        raise UserError(f"{where}: {len(matching)} rows of {path} match {{{asked}}}; {_hint(rows, wanted, matching)}")
    row = matching[0]
    if row.get("kind", cell.kind) not in ("", cell.kind):
        raise UserError(f"{where}: {path} says of it 'kind: {row['kind']}', and not '{cell.kind}'; write the same.")
    source = f"{cell.file}.csv, {', '.join(map(str, wanted.values()))}, column {cell.value}"
    if row.get("source"):
        source = f"{row['source']} ({source})"
    known = [said for word, said in _CAVEATS.items() if row.get("known") == word]
    return Published(
        value=cell.scale * _number(row[cell.value], f"{where}: {path}, column {cell.value}"),
        spread=None
        if not cell.spread or row[cell.spread] == ""
        else abs(cell.scale) * _number(row[cell.spread], f"{where}: {path}, column {cell.spread}"),
        kind=cell.kind,
        tolerance=cell.tolerance,
        protocol="; ".join([cell.protocol, *known]),
        source=source,
    )


def caveat(protocol: str | None) -> str:
    """What a published number's protocol, where there is one, says of its standing, or ''."""
    return next((said for said in _CAVEATS.values() if (protocol or "").endswith(said)), "")


def is_unverified(protocol: str | None) -> bool:
    """Whether nobody has looked a published number up."""
    return caveat(protocol) == UNVERIFIED


def file_of(cell: PublishedCell, folder: Path, where: str) -> tuple[Path, list[dict[str, str]]]:
    """The file of a published number, and its rows.

    Raises:
        UserError: no such file, no such column in it, or a line with more fields than columns.
    """
    path = folder / f"{cell.file}.csv"
    if not path.is_file():
        known = [p.stem for p in folder.glob("*.csv")]
        raise UserError(f"{where}: there is no file {path}; {nearest(cell.file, known)}")
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream, restval="")
        rows = []
        for row in reader:
            if None in row:
                raise UserError(
                    f"{where}: line {reader.line_num} of {path} has more fields than its first line; put a field that "
                    "holds a comma in quotes."
                )
            rows.append(row)
    columns = list(reader.fieldnames or [])
    for column in [*cell.where, cell.value, *([cell.spread] if cell.spread else [])]:
        if column not in columns:
            raise UserError(f"{where}: {path} has no column '{column}'; {nearest(column, columns)}")
    return path, rows


def placeholders(cell: PublishedCell) -> set[str]:
    """Names of the `{name}` placeholders in what picks a cell's row; none for a value that is not well formed."""
    found = set()
    for value in cell.where.values():
        try:
            found |= {name for _, name, _, _ in Formatter().parse(value) if name} if isinstance(value, str) else set()
        except ValueError:
            continue
    return found


def _filled(value: Any, fill: dict[str, Any], where: str) -> str:
    if not isinstance(value, str):
        return str(value)
    try:
        return value.format_map(fill)
    except KeyError as error:
        known = nearest(str(error.args[0]), fill)
        raise UserError(
            f"{where}: '{value}' names {{{error.args[0]}}}, which this row does not have; {known}"
        ) from None
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{where}: '{value}' is not a value with {{name}} placeholders ({error}).") from None


def _equal(printed: str, wanted: str) -> bool:
    if printed == wanted:
        return True
    try:
        return float(printed) == float(wanted)
    except ValueError:
        return False


def _hint(rows: list[dict[str, str]], wanted: dict[str, str], matching: list[dict[str, str]]) -> str:
    """What to write: a column that tells the matching rows apart, or the values of the column that misses."""
    if matching:
        apart = [name for name in rows[0] if name not in wanted and len({row[name] for row in matching}) > 1]
        return f"write one of the columns {', '.join(apart)} under 'where' too."
    for name, value in wanted.items():
        if not any(_equal(row[name], value) for row in rows):
            return f"column '{name}': {nearest(value, {row[name] for row in rows})}"
    return "write values that stand in one row together."


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: '{text}' is not a number; write one there, or take the cell out.")
    return number
