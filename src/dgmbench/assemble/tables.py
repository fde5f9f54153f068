"""The human table: rows by columns, one section for each kind, because kinds are never ranked together."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dgmbench.assemble.ledger import Record
from dgmbench.assemble.published import caveat
from dgmbench.assemble.verdict import NOT_PUBLISHED, PENDING
from dgmbench.format import number, spread

KINDS = {
    "exact": "computed exactly, without approximation",
    "lower-bound": "in expectation at most the true value, so that it can lie above it by its uncertainty",
    "upper-bound": "in expectation at least the true value, as far as the chains that give it follow their target: "
    "it can lie below it by its uncertainty, and by more where a note says that they do not",
    "estimate": "estimates the true value, and may miss it to either side",
    "parzen": "log-likelihood of a kernel density fitted to samples: compare with other Parzen values alone",
    "score": "a score on its own scale, and no likelihood",
}
MOST_COLUMNS = 5
UNCERTAINTIES = (
    "value ± standard error over test examples (over groups such as images, where examples depend on each other); "
    "estimator ± the estimator's own Monte Carlo; sd = standard deviation over training seeds."
)
OF_CLOCKS = (
    "Of times, rates and their ratios, estimator ± is the standard error of a median over readings of the clock: on "
    "another machine, or another day, they are others."
)


@dataclass(frozen=True)
class Heading:
    """What stands above a column (or before a row of a turned table)."""

    column: str
    metric: str
    unit: str
    kind: str


@dataclass
class TableCell:
    record: Record | None
    notes: list[int] = field(default_factory=list)

    @property
    def value(self) -> str:
        """The number with its standard error over test examples: `−12.34 ± 0.12`."""
        r = self.record
        if r is None or r["obtained"] is None:
            return number(None)
        text = number(r["obtained"], (r["test_se"], r["estimator_se"], r["seed_sd"]))
        return f"{text} ± {spread(r['test_se'])}" if r["test_se"] is not None else text

    @property
    def further(self) -> str:
        """The other two uncertainties: `estimator ± 0.03, sd 0.20 over 3 seeds`."""
        r = self.record
        if r is None or r["obtained"] is None:
            return ""
        parts = [f"estimator ± {spread(r['estimator_se'])}"] if r["estimator_se"] else []
        if r["seed_sd"] is not None:
            parts.append(f"sd {spread(r['seed_sd'])} over {r['n_seeds']} seeds")
        return ", ".join(parts)

    @property
    def state(self) -> str:
        """A status that the reader must see beside the number, or instead of it."""
        return "" if self.record is None or self.record["status"] == "done" else self.record["status"]

    @property
    def published(self) -> str:
        """`published 153.7 ± 0.2`, with its kind where that differs, and its caveat."""
        r = self.record
        if r is None or r["published"] is None:
            return ""
        text = number(r["published"], [])
        if r["published_spread"] is not None:
            text = f"{number(r['published'], [r['published_spread']])} ± {spread(r['published_spread'])}"
        kind = "" if r["published_kind"] == r["kind"] else f" ({r['published_kind']})"
        return ", ".join(filter(None, [f"published {text}{kind}", caveat(r["published_protocol"])]))

    @property
    def verdict(self) -> str:
        r = self.record
        return "" if r is None or r["verdict"] in (NOT_PUBLISHED, PENDING, "failed") else r["verdict"]


@dataclass
class TableRow:
    label: str
    control: bool
    cells: list[TableCell]
    notes: list[int] = field(default_factory=list)


@dataclass
class Section:
    """The part of a table that holds one kind, in at most `MOST_COLUMNS` columns."""

    kind: str
    across: list[str]
    rows: list[TableRow]


@dataclass
class View:
    """`remarks` are sentences on how all numbers are to be read, `notes` the numbered ones on some."""

    title: str
    caption: str
    question: str
    sections: list[Section]
    remarks: list[str]
    notes: list[str]


def heading_text(heading: Heading) -> str:
    """`test: log_likelihood [nats], exact`"""
    unit = f" [{heading.unit}]" if heading.unit else ""
    return f"{heading.column}: {heading.metric}{unit}, {heading.kind}"


def view(records: Iterable[Record], labels: dict[str, str], title: str, caption: str, question: str = "") -> View:
    """Pivot tidy rows. A kind with more columns than rows (and than fit) is turned; still too many are split.

    Args:
        records: rows of `<experiment>.csv`.
        labels: row -> what the table prints for it.
    """
    records = list(records)
    notes: list[str] = []
    sections = []
    for kind in [k for k in KINDS if any(r["kind"] == k for r in records)]:
        chosen = [r for r in records if r["kind"] == kind]
        headings = list(dict.fromkeys(Heading(r["column"], r["metric"], r["unit"], kind) for r in chosen))
        rows = list(dict.fromkeys(r["row"] for r in chosen))
        cells = {(r["row"], Heading(r["column"], r["metric"], r["unit"], kind)): r for r in chosen}
        controls = {r["row"]: r["control"] for r in chosen}
        if len(headings) > MOST_COLUMNS and len(headings) > len(rows):
            across = [labels.get(row, row) + (" (control)" if controls[row] else "") for row in rows]
            body = [
                TableRow(heading_text(h), False, [_cell(cells.get((row, h)), notes) for row in rows]) for h in headings
            ]
        else:
            across = [heading_text(h) for h in headings]
            body = [
                TableRow(labels.get(row, row), controls[row], [_cell(cells.get((row, h)), notes) for h in headings])
                for row in rows
            ]
        for start in range(0, len(across), MOST_COLUMNS):
            part = slice(start, start + MOST_COLUMNS)
            kept = [TableRow(row.label, row.control, row.cells[part]) for row in body]
            shown = [row for row in kept if any(cell.record for cell in row.cells)]
            sections.append(Section(kind, across[part], shown))
    return View(title, caption, question, sections, _remarks(records), notes)


def _remarks(records: list[Record]) -> list[str]:
    clocks = any(r["unit"] in ("seconds", "milliseconds") or r["unit"].endswith("/second") for r in records)
    remarks = [UNCERTAINTIES, OF_CLOCKS] if clocks else [UNCERTAINTIES]
    tolerances = sorted(
        {(r["unit"], r["published_tolerance"]) for r in records if r["published_tolerance"] is not None}
    )
    if tolerances:
        allowed = " or ".join(f"{number(tolerance)} {unit}".strip() for unit, tolerance in tolerances)
        row = "" if len(tolerances) == 1 else "; dgmbench why says which"
        remarks.append(f"reproduced = within {allowed} of the published number{row}.")
    return remarks


def _cell(record: Record | None, notes: list[str]) -> TableCell:
    if record is None or not record["reason"]:
        return TableCell(record)
    note = f"{record['verdict'] if record['status'] == 'done' else record['status']}: {record['reason']}"
    if note not in notes:
        notes.append(note)
    return TableCell(record, [notes.index(note) + 1])


def row_labels(cells: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Row -> label with the grid's values, of which a selection's are those that were chosen.

    Args:
        cells: of every cell its `row`, `label`, `dataset`, `parameters` of the grid, and `selected_from`, which is not
            empty for a selection. The dataset is printed where the row's identity names it.
    """
    labels = {}
    for cell in cells:
        row, label = cell["row"], cell["label"]
        several = f"dataset={cell['dataset']}" in row.split()
        values = {**({"dataset": cell["dataset"]} if several else {}), **cell["parameters"]}
        shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
        labels[row] = f"{label}{':' if cell['selected_from'] else ','} {shown}" if shown else label
    ambiguous = {label for label in labels.values() if list(labels.values()).count(label) > 1}
    return {row: row if label in ambiguous else label for row, label in labels.items()}
