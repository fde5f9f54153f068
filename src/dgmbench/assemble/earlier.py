"""What stands of an experiment that was assembled before, and may go on standing.

Tables are made from small files, which a clone has. Paired differences and pictures are also made from large ones,
which may be gone with the machine that computed them. A difference stands as long as it is of the same evaluations
(their identity says of which model, data, settings and code they are) of as many seeds, and as their numbers are the
same to a tenth of its standard error: another machine rounds in other ways. A picture stands as long as it shows
something that cannot be drawn any more, and says what it does not show.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgmbench.assemble.entries import Entry
from dgmbench.assemble.figures.base import Source
from dgmbench.assemble.ledger import PAIRED_SUFFIX, Record
from dgmbench.assemble.outcomes import DONE, PENDING
from dgmbench.assemble.provenance import used_by
from dgmbench.files import read_json
from dgmbench.format import names

MAIN, SAMPLES = "", "-samples"  # endings of the names of pictures that are drawn from arrays
_SHARE_OF_SE = 0.1
_ROUNDING = 1e-9  # where two rows are the same run, there is no standard error
_OF_DIFFERENCE = ("difference", "se", "se_over", "low", "high", "n_examples", "n_groups", "n_seeds", "reason")

Drawn = dict[str, str | None]  # evaluation -> checksum of the arrays that a picture was drawn from, where known
_Pair = tuple[frozenset[str], frozenset[str], str]


@dataclass(frozen=True)
class Earlier:
    """The cells, the paired differences and the pictures of an experiment; nothing of one that has no provenance.

    Attributes:
        cells: key -> what provenance says of a cell.
        pictures: `MAIN` or `SAMPLES` -> what the picture was drawn from.
        differences: the evaluations of two cells, and a metric -> the keys of the cells, the line of the paired table.
    """

    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: dict[str, Drawn] = field(default_factory=dict)
    differences: dict[_Pair, tuple[str, str, Record]] = field(default_factory=dict)

    def lost(self, entries: Iterable[Entry]) -> list[str]:
        """Cells that have a number here, and are pending among `entries`."""
        pending = (entry.key for entry in entries if entry.status == PENDING)
        return [key for key in pending if self.cells.get(key, {}).get("obtained") is not None]

    def difference(self, entry: Entry, reference: Entry) -> Record | None:
        """The paired difference of two cells, where it may stand; rows and columns may have other names now."""
        sides = (entry, reference)
        evaluations = [frozenset(o.evaluation for o in each.outcomes) for each in sides]
        if (known := self.differences.get((*evaluations, entry.metric))) is None:
            return None
        *keys, line = known
        moved = 0.0
        for each, cell in zip(sides, (self.cells[key] for key in keys), strict=True):
            now, then = each.combined.obtained, cell["obtained"]
            if now is None or then is None or len(each.combined.done) != cell["n_seeds"]:
                return None
            moved += abs(now - then)
        stands = moved <= _SHARE_OF_SE * float(line["se"]) + _ROUNDING
        return {name: line[name] for name in _OF_DIFFERENCE} if stands else None


def read_earlier(results: Path, experiment: str) -> Earlier:
    """What stands below results/<budget>/ of an experiment."""
    path = results / "provenance" / f"{experiment}.json"
    if not path.is_file():
        return Earlier()
    shown = read_json(path)
    # Provenance did not always say what a picture is drawn from: then all that had come out.
    done = {identity: None for identity, record in shown["evaluations"].items() if record["status"] == DONE}
    told = shown.get("pictures") or {}
    pictures = {suffix: told[suffix]["drawn_from"] if suffix in told else done for suffix in (MAIN, SAMPLES)}
    here = {s: drawn for s, drawn in pictures.items() if _picture(results, experiment, s).is_file()}
    return Earlier(shown["cells"], here, _differences(results, experiment, shown["cells"]))


def _differences(
    results: Path, experiment: str, cells: dict[str, dict[str, Any]]
) -> dict[_Pair, tuple[str, str, Record]]:
    path, found = results / "tables" / f"{experiment}{PAIRED_SUFFIX}.csv", {}
    if not path.is_file():
        return found
    with path.open(newline="") as stream:
        lines = [line for line in csv.DictReader(stream) if line["difference"]]
    for line in lines:
        keys = [f"{line[row]} | {line['column']} | {line['metric']}" for row in ("row", "reference")]
        if all(key in cells for key in keys):
            first, second = (frozenset(used_by(cells[key])[1]) for key in keys)
            found[first, second, line["metric"]] = (*keys, line)
    return found


def _picture(results: Path, experiment: str, suffix: str) -> Path:
    return results / "figures" / f"{experiment}{suffix}.svg"


def stands(drawn: Drawn, sources: dict[str, Source]) -> bool:
    """Whether a picture that was drawn before shows something that is asked for and cannot be drawn now."""
    return any(identity in drawn and not source.here for identity, source in sources.items())


def kept_note(drawn: Drawn, sources: dict[str, Source], labels: dict[str, str]) -> str:
    """What a reader must know of a picture that stands as it was drawn before.

    Args:
        drawn: what it was drawn from.
        sources: evaluation -> what it would be drawn from now.
    """

    def rows(chosen: Iterable[Source]) -> str:
        return names(dict.fromkeys(labels.get(source.row, source.row) for source in chosen))

    absent = sum(not source.here for source in sources.values())
    said = [
        f"Drawn when its table was assembled before: {absent} of the {len(sources)} files that it is drawn from "
        f"{'was' if absent == 1 else 'were'} not on the machine that assembled it last"
    ]
    if new := rows(source for identity, source in sources.items() if identity not in drawn):
        said.append(f"computed since, and not in it: {new}")
    others = [s for identity, s in sources.items() if drawn.get(identity) is not None and drawn[identity] != s.checksum]
    if again := rows(others):
        said.append(f"computed again since: {again}")
    if gone := len(drawn.keys() - sources.keys()) if any(drawn.values()) else 0:
        said.append(f"no longer asked for, and in it: {gone} of its parts")
    return "; ".join(said) + "."
