"""The ledger: published against obtained, one line for each cell, with a verdict and a reason."""

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from dgmbench.assemble import provenance
from dgmbench.assemble.entries import Entry
from dgmbench.assemble.superseded import marked, note, superseded_cells
from dgmbench.assemble.verdict import VERDICTS
from dgmbench.files import write_json, write_text
from dgmbench.params import Params
from dgmbench.runs import PICTURE, make_plan
from dgmbench.schemas import Experiment

COLUMNS = (
    *("experiment", "dataset", "model", "variant", "metric", "unit", "kind"),
    *("obtained", "test_se", "estimator_se", "seed_sd", "n_seeds", "published", "published_spread"),
    *("verdict", "status", "reason", "run_ids"),
    *("row", "column", "control", "protocol"),
    *("published_kind", "published_source", "published_protocol", "converged"),
    *("bits_per_pixel", "published_tolerance"),
)
LATER = ("bits_per_pixel", "published_tolerance")  # columns that tables written by earlier versions do not have
NUMBERS = (
    *("obtained", "test_se", "estimator_se", "seed_sd", "published", "published_spread", "bits_per_pixel"),
    "published_tolerance",
)
PAIRED_SUFFIX = "-paired"
_FIGURES = {"figure": "", "samples": "-samples", "training": "-training"}

Record = dict[str, Any]


def records(entries: Iterable[Entry]) -> list[Record]:
    """The tidy rows of entries, pictures left out."""
    return [_record(entry) for entry in entries if entry.metric != PICTURE]


def _record(entry: Entry) -> Record:
    combined, published = entry.combined, entry.published
    return {
        **{k: getattr(entry, k) for k in ("experiment", "dataset", "model", "variant", "metric", "unit", "kind")},
        **{k: getattr(combined, k) for k in ("obtained", "test_se", "estimator_se", "seed_sd")},
        "n_seeds": len(combined.done),
        "published": published.value if published else None,
        "published_spread": published.spread if published else None,
        **{k: getattr(entry, k) for k in ("verdict", "status", "reason")},
        "run_ids": " ".join(outcome.run for outcome in entry.outcomes),
        **{k: getattr(entry, k) for k in ("row", "column", "control", "protocol")},
        "published_kind": published.kind if published else "",
        "published_source": published.source if published else "",
        "published_protocol": published.protocol if published else "",
        "converged": combined.converged,
        "bits_per_pixel": entry.bits_per_pixel,
        "published_tolerance": published.tolerance if published else None,
    }


def to_csv(rows: Iterable[Record], columns: Iterable[str] = COLUMNS) -> str:
    """CSV with floats in full; None is empty, booleans are true and false."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _spelled(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _spelled(value: Any) -> Any:
    return {None: "", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else value


def read_csv(path: Path) -> list[Record]:
    """The rows of a table or ledger, with numbers as floats and what is empty, or came later, as None."""
    with path.open(newline="") as stream:
        rows = [{name: _parsed(name, text) for name, text in row.items()} for row in csv.DictReader(stream)]
    return [row | {name: None for name in LATER if name not in row} for row in rows]


def _parsed(name: str, text: str) -> Any:
    if name in NUMBERS:
        return float(text) if text else None
    if name == "n_seeds":
        return int(text)
    if name in ("control", "converged"):
        return {"true": True, "false": False, "": None}[text]
    return text


def key(record: Record) -> str:
    return f"{record['row']} | {record['column']} | {record['metric']}"


def table_path(results: Path, experiment: str) -> Path:
    """The tidy table of an experiment that has been assembled."""
    return provenance.assembled_file(results, f"tables/{experiment}.csv")


def of_budget(params: Params, experiments: dict[str, Experiment]) -> dict[str, Experiment]:
    """The experiments that a ledger or a page is about: those asked for that have this budget."""
    asked = experiments if params.experiments == "all" else params.experiments
    return {name: experiments[name] for name in asked if params.budget in experiments[name].budgets}


def without_tables(results_root: Path, params: Params, experiments: dict[str, Experiment]) -> list[str]:
    """The experiments of the budget that have not been assembled."""
    tables = Path(results_root) / params.budget / "tables"
    return [name for name in of_budget(params, experiments) if not (tables / f"{name}.csv").is_file()]


def collect(results_root: Path, params: Params, experiments: dict[str, Experiment]) -> Path:
    """Write ledger.csv, metrics.json and ledger.md from the tables of one budget; return ledger.csv's path.

    metrics.json nests experiment -> "row | column | metric" -> obtained, done cells alone, for comparisons
    between commits. ledger.md counts the verdicts and leads to the tables and figures. Both ledgers say which numbers
    are superseded.

    Raises:
        UserError: an experiment has not been assembled.
    """
    results = Path(results_root) / params.budget
    tables = {name: read_csv(table_path(results, name)) for name in of_budget(params, experiments)}
    path = results / "ledger.csv"
    write_json(
        results / "metrics.json",
        {
            name: {key(record): record["obtained"] for record in rows if record["status"] == "done"}
            for name, rows in tables.items()
        },
    )
    plan = make_plan(params, experiments)
    shown = {name: provenance.read(results, name) for name in tables}
    old = {name: superseded_cells(shown[name], name, plan) for name in tables}
    # A picture's cell is no row of a table.
    old = {name: {key(r): old[name][key(r)] for r in rows if key(r) in old[name]} for name, rows in tables.items()}
    told = {name: [marked(record, old[name].get(key(record))) for record in rows] for name, rows in tables.items()}
    write_text(path, to_csv(record for rows in told.values() for record in rows))
    notes = {name: note(old[name], len(rows)) for name, rows in tables.items()}
    unsampled = {name for name in tables if not provenance.sampled(shown[name])}
    write_text(results / "ledger.md", summary(told, params.budget, notes, unsampled))
    return path


def summary(
    tables: dict[str, list[Record]], budget: str, superseded_notes: dict[str, str], unsampled: Collection[str] = ()
) -> str:
    """Counts of verdicts by experiment, as a Markdown table whose names lead to the tables and figures beside it, what
    is superseded, and the cells that did not come out."""
    lines = [
        f"# Ledger, budget {budget}",
        "",
        f"Every cell: [ledger.csv](ledger.csv). `dgmbench report --budget {budget}` writes the page with the "
        "provenance of every number, `report/index.html`, from these files.",
        "",
        "| experiment | cells | " + " | ".join(VERDICTS) + " | pictures |",
        "| --- |" + " ---: |" * (1 + len(VERDICTS)) + " --- |",
    ]
    total: Counter[str] = Counter()
    for name, rows in tables.items():
        counts = Counter(record["verdict"] for record in rows)
        total += counts
        shown = [text for text in _FIGURES if text != "samples" or name not in unsampled]
        pictures = ", ".join(f"[{text}](figures/{name}{_FIGURES[text]}.svg)" for text in shown)
        lines.append(f"| [{name}](tables/{name}.md) | {len(rows)} | {_counts(counts)} | {pictures} |")
    if len(tables) > 1:
        lines.append(f"| all | {total.total()} | {_counts(total)} | |")
    if any(superseded_notes.values()):
        lines += ["", "Superseded numbers, which stand until `snakemake` makes their tables anew:", ""]
        lines += [f"- {name}: {said}." for name, said in superseded_notes.items() if said]
    troubled = [r for rows in tables.values() for r in rows if r["status"] in ("failed", "refused", "partial")]
    if troubled:
        lines += ["", "Cells that did not come out whole:", ""]
        lines += [f"- {r['experiment']}, {key(r)}: {r['status']}: {r['reason']}" for r in troubled]
    return "\n".join(lines) + "\n"


def _counts(counts: Counter[str]) -> str:
    return " | ".join(str(counts[verdict]) for verdict in VERDICTS)
