"""What stands of an experiment that was assembled before, and may go on standing.

Tables are made from small files, which a clone has. Paired differences and pictures are also made from large ones,
which may be gone with the machine that computed them. A difference stands as long as it is of the same evaluations
(their identity says of which model, data, settings and code they are), and as their numbers are the same to a tenth of
its standard error: another machine rounds in other ways. A picture stands as it was drawn.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgmbench.assemble.entries import Entry
from dgmbench.assemble.figures.base import FORMATS
from dgmbench.assemble.ledger import PAIRED_SUFFIX, Record
from dgmbench.assemble.outcomes import PENDING
from dgmbench.assemble.provenance import used_by
from dgmbench.files import read_json
from dgmbench.format import names

MAIN, SAMPLES = "", "-samples"  # endings of the names of pictures that are drawn from arrays
_SHARE_OF_SE = 0.1
_ROUNDING = 1e-9  # where two rows are the same run, there is no standard error


@dataclass(frozen=True)
class Earlier:
    """The provenance, the paired differences and the pictures of an experiment; nothing of one that has none.

    Attributes:
        cells: key -> what provenance says of a cell.
        pictures: `MAIN` or `SAMPLES` -> the evaluations whose arrays the picture was drawn from.
        differences: (row, reference, column, metric) -> the line of the paired table.
    """

    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: dict[str, list[str]] = field(default_factory=dict)
    differences: dict[tuple[str, ...], Record] = field(default_factory=dict)

    def lost(self, entries: Iterable[Entry]) -> list[str]:
        """Cells that have a number here, and are pending among `entries`."""
        pending = (entry.key for entry in entries if entry.status == PENDING)
        return [key for key in pending if self.cells.get(key, {}).get("obtained") is not None]

    def difference(self, entry: Entry, reference: Entry) -> Record | None:
        """The paired difference of two cells, where it may stand."""
        known = self.differences.get((entry.row, reference.row, entry.column, entry.metric))
        if known is None or not known["difference"]:
            return None
        if any(self._evaluations(each.key) != {o.evaluation for o in each.outcomes} for each in (entry, reference)):
            return None
        moved = 0.0
        for each in (entry, reference):
            now, then = each.combined.obtained, self.cells[each.key]["obtained"]
            moved += math.inf if now is None or then is None else abs(now - then)
        return known if moved <= _SHARE_OF_SE * float(known["se"]) + _ROUNDING else None

    def _evaluations(self, key: str) -> set[str]:
        cell = self.cells.get(key)
        return set(used_by(cell)[1]) if cell else set()


def read_earlier(results: Path, experiment: str) -> Earlier:
    """What stands below results/<budget>/ of an experiment."""
    path = results / "provenance" / f"{experiment}.json"
    if not path.is_file():
        return Earlier()
    shown = read_json(path)
    # Provenance did not always say what a picture is drawn from: then all that the experiment had evaluated.
    unknown = {"evaluations": sorted(shown["evaluations"])}
    ids = {suffix: shown.get("pictures", {}).get(suffix, unknown)["evaluations"] for suffix in (MAIN, SAMPLES)}
    here = [suffix for suffix in ids if all(path.is_file() for path in _files(results, experiment, suffix))]
    paired = results / "tables" / f"{experiment}{PAIRED_SUFFIX}.csv"
    differences = {}
    if paired.is_file():
        with paired.open(newline="") as stream:
            for row in csv.DictReader(stream):
                differences[tuple(row[name] for name in ("row", "reference", "column", "metric"))] = row
    return Earlier(shown["cells"], {suffix: ids[suffix] for suffix in here}, differences)


def _files(results: Path, experiment: str, suffix: str) -> list[Path]:
    return [results / "figures" / f"{experiment}{suffix}.{ending}" for ending in FORMATS]


def kept_note(absent: int, drawn_from: Iterable[str], wanted: dict[str, str], labels: dict[str, str]) -> str:
    """One sentence under a picture that stands as it was drawn before.

    Args:
        absent: how many of the files that it is drawn from are not on this machine.
        drawn_from: evaluations that it was drawn from.
        wanted: evaluation -> row, of all that it would be drawn from now.
    """
    drawn = set(drawn_from)
    new = names(dict.fromkeys(labels.get(row, row) for identity, row in wanted.items() if identity not in drawn))
    files = f"{absent} of the files that it is drawn from {'is' if absent == 1 else 'are'} not on this machine"
    said = f"Drawn when its table was assembled before: {files}."
    return f"{said} Computed since, and not in it: {new}." if new else said
