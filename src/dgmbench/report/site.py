"""The page that a person reads: one self-contained file, made from tables, figures and provenance alone."""

import base64
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from dgmbench.assemble import ledger, provenance, work
from dgmbench.assemble.earlier import SAMPLES
from dgmbench.assemble.paired import COLUMNS as PAIRED_COLUMNS
from dgmbench.assemble.superseded import marked, note, superseded_cells
from dgmbench.assemble.tables import KINDS, Section, View, row_labels, view
from dgmbench.assemble.verdict import VERDICTS
from dgmbench.errors import UserError
from dgmbench.files import write_text
from dgmbench.format import duration, names, number, spread
from dgmbench.params import Params
from dgmbench.report.cards import cards
from dgmbench.runs import Plan, make_plan
from dgmbench.schemas import Experiment

FOLDER = Path(__file__).parent
FIGURES = {"": "", "-samples": "Samples of the first seed of each row.", "-training": "Training curves."}
VERDICT_MEANINGS = {
    "reproduced": "within the stated tolerance of the published number",
    "better": "beyond the tolerance, in the metric's better direction",
    "worse": "beyond the tolerance, in the other direction",
    "protocol differs": "another kind, data or protocol than the published number: not compared",
    "pending": "not computed yet, or not converged; the reason says which",
    "failed": "the run diverged, or the estimator failed or refused; the reason says why",
    "not published": "no published number stands beside it",
}
STATUSES = {
    "done": "every seed came out",
    "unconverged": "the estimator's own evidence says that more work would move the number",
    "partial": "some seeds failed; the number is the mean of the others",
    "failed": "no seed came out",
    "refused": "the estimator cannot be applied to this model, or the number not be computed from what is planned",
    "superseded": "made by earlier code or under earlier settings than those of today, and not made anew yet",
    "pending": "not computed yet",
}


def build(
    params: Params,
    experiments: dict[str, Experiment],
    results_root: Path = Path("results"),
    not_assembled: dict[str, Experiment] | None = None,
) -> Path:
    """Write results/<budget>/report/index.html from what was assembled and collected; return its path.

    Args:
        not_assembled: experiments of the budget that the page only names.

    Raises:
        UserError: an experiment of this budget was not assembled, or the ledger was not collected.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    results = Path(results_root) / params.budget
    wanted = ledger.of_budget(params, experiments)
    if not (results / "ledger.csv").is_file():
        raise UserError(
            f"{results / 'ledger.csv'} is missing: run `dgmbench report --budget {params.budget}` (snakemake does)."
        )
    rows = ledger.read_csv(results / "ledger.csv")
    plan = make_plan(params, wanted)
    pages = [ExperimentPage(name, experiment, params.budget, results, plan) for name, experiment in wanted.items()]
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "spread": spread, "embed": embed}
    html = environment.get_template("index.html.j2").render(
        budget=params.budget,
        version=metadata.version("dgmbench"),
        facts=build_facts(pages),
        pages=pages,
        left_out=_left_out(params, experiments, not_assembled or {}),
        ledger=rows,
        labels={page.name: page.labels for page in pages},
        verdicts=Counter(row["verdict"] for row in rows),
        statuses=Counter(row["status"] for row in rows),
        verdict_meanings={name: VERDICT_MEANINGS[name] for name in VERDICTS},
        status_meanings=STATUSES,
        kinds=KINDS,
        cards=cards(plan.datasets, results / "datasets", Path(results_root) / "datasets"),
        data={page.name: page.embedded for page in pages},
        style=(FOLDER / "style.css").read_text(),
        script=(FOLDER / "site.js").read_text(),
    )
    path = results / "report" / "index.html"
    write_text(path, html)
    return path


def _left_out(
    params: Params, experiments: dict[str, Experiment], not_assembled: dict[str, Experiment]
) -> list[tuple[str, str, str]]:
    """Name, title and reason of every experiment that has no section on the page."""
    found = [
        (name, e.title, f"has no budget {params.budget}, only {names(e.budgets)}")
        for name, e in experiments.items()
        if params.budget not in e.budgets
    ]
    return found + [(n, e.title, "nothing of it has been assembled here yet") for n, e in not_assembled.items()]


def embed(value: Any) -> str:
    """JSON that may stand inside a script element: no character of it can end the element."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@dataclass
class Picture:
    name: str
    source: str
    alt: str
    caption: str


@dataclass
class ExperimentPage:
    """What the template shows of one experiment."""

    name: str
    experiment: Experiment
    budget: str
    results: Path
    plan: Plan

    @cached_property
    def rows(self) -> list[ledger.Record]:
        rows = ledger.read_csv(ledger.table_path(self.results, self.name))
        return [marked(row, self.superseded.get(ledger.key(row))) for row in rows]

    @cached_property
    def superseded(self) -> dict[str, list[str]]:
        """Keys of the cells that the benchmark would make in another way now, and the commits that made them."""
        return superseded_cells(self.provenance, self.name, self.plan)

    @property
    def superseded_note(self) -> str:
        """One sentence for all of them that are numbers, or ''."""
        keys = [ledger.key(row) for row in self.rows]
        return note({key: self.superseded[key] for key in keys if key in self.superseded}, len(keys))

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return provenance.read(self.results, self.name)

    @property
    def embedded(self) -> dict[str, Any]:
        cells = {key: marked(cell, self.superseded.get(key)) for key, cell in self.provenance["cells"].items()}
        return {"cells": cells} | {key: self.provenance[key] for key in ("runs", "evaluations", "datasets")}

    @cached_property
    def labels(self) -> dict[str, str]:
        return row_labels(self.provenance["cells"].values())

    @cached_property
    def view(self) -> View:
        return view(self.rows, self.labels, self.experiment.title, "")

    @property
    def differs(self) -> str | None:
        return self.experiment.budgets[self.budget].differs

    @property
    def verdicts(self) -> Counter:
        return Counter(row["verdict"] for row in self.rows)

    @cached_property
    def pictures(self) -> list[Picture]:
        """The figures that were assembled, each as a data address with its alternative text."""
        found = []
        for suffix, caption in FIGURES.items():
            path = self.results / "figures" / f"{self.name}{suffix}.svg"
            if path.is_file() and (suffix != SAMPLES or provenance.sampled(self.provenance)):
                source = "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
                caption = caption or f"{self.experiment.title}. {self.experiment.question}"
                kept = self.provenance.get("pictures", {}).get(suffix, {}).get("kept")
                caption = f"{caption} {kept}" if kept else caption
                found.append(Picture(path.stem, source, f"{caption} {self._alternative(suffix)}", caption))
        return found

    def _alternative(self, suffix: str) -> str:
        if suffix:
            return f"Experiment {self.experiment.title}: {names(dict.fromkeys(self.labels.values()))}."
        columns = names(dict.fromkeys(row["column"].split()[0] for row in self.rows))
        return f"The numbers are in the table above: {columns}."

    @cached_property
    def paired(self) -> list[dict[str, str]] | None:
        """The paired table's rows as printed, or None where the experiment has no such table."""
        import csv

        path = self.results / "tables" / f"{self.name}{ledger.PAIRED_SUFFIX}.csv"
        if self.experiment.paired_with is None or not path.is_file():
            return None
        with path.open(newline="") as stream:
            # A column that tables of earlier versions do not have is empty.
            rows = [{name: row.get(name, "") for name in PAIRED_COLUMNS} for row in csv.DictReader(stream)]
        for row in rows:
            for name in ("difference", "se", "low", "high", "seed_se"):
                row[name] = float(row[name]) if row[name] else None
        return rows

    @cached_property
    def work(self) -> list[dict[str, str]]:
        """What training and evaluation took, heading -> text; [] where tables were assembled before they said it."""
        path = self.results / "tables" / f"{self.name}{work.SUFFIX}.csv"
        return work.printed(work.read(path), self.labels) if path.is_file() else []

    def is_turned(self, section: Section) -> bool:
        """Whether the section's columns are the experiment's rows."""
        return bool(section.rows) and section.rows[0].label not in self.labels.values()


def build_facts(pages: list[ExperimentPage]) -> dict[str, list[str]]:
    """Commits, machines and versions that the numbers were made with; no dates, so that equal results look equal."""
    measured = [
        record["measured"]
        for page in pages
        for part in ("runs", "evaluations")
        for record in page.provenance[part].values()
        if record.get("measured")
    ]
    commits = sorted({m.get("commit") or "unknown" for m in measured})
    machines = sorted({_machine(m) for m in measured})
    versions = sorted({f"{name} {version}" for m in measured for name, version in (m.get("versions") or {}).items()})
    seconds = sum(m.get("seconds") or 0 for m in measured)
    return {
        "commit": commits or ["unknown"],
        "machine": machines or ["unknown"],
        "versions": versions or ["unknown"],
        "work": [f"{duration(seconds)} of training and evaluation in {len(measured)} jobs"],
    }


def _machine(measured: dict[str, Any]) -> str:
    machine = measured.get("machine") or {}
    cores = f"{machine['cores']} cores" if machine.get("cores") else ""
    return ", ".join(str(p) for p in (machine.get("processor"), cores, measured.get("device")) if p) or "unknown"
