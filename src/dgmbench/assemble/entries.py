"""The cells of one experiment once they are known: obtained, published, verdict, and what both rest on."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dgmbench.assemble.outcomes import PENDING, Archive, Combined, Outcome
from dgmbench.assemble.published import Published, look_up, placeholders
from dgmbench.assemble.verdict import verdict
from dgmbench.data import catalogue
from dgmbench.data.transforms import Step, bits_per_dimension, convention
from dgmbench.estimators.base import Metric
from dgmbench.estimators.registry import estimator
from dgmbench.grids import combinations, spell
from dgmbench.runs import PICTURE, Cell, Plan, PlannedRow
from dgmbench.schemas import Experiment

LARGEST_CLOCK_ERROR = 0.1  # of a time, a rate or a ratio of them: standard error over value


@dataclass(frozen=True)
class Entry:
    """One number of a table: a row, a column and a metric, with everything that the ledger says about it."""

    experiment: str
    row: str
    row_name: str
    label: str
    column: str
    evaluation_name: str
    estimator: str
    metric: str
    unit: str
    kind: str
    better: str
    description: str
    dataset: str
    model: str
    variant: str
    parameters: dict[str, Any]
    settings: dict[str, Any]
    control: bool
    protocol: str
    outcomes: tuple[Outcome, ...] = ()
    published: Published | None = None
    differs: str | None = None
    why_pending: str = ""  # for a cell that has no run of its own
    note: str = ""  # what a reader must know beside the status
    selected: tuple[str, ...] = field(default=(), compare=False)  # what a selection was made from, in words
    space: tuple[Step, ...] = ()  # from the original pixels to the values, where the dataset says it
    dimension: int = 0  # values of one example, where there is a space

    @cached_property
    def combined(self) -> Combined:
        return Combined(self.outcomes)

    @property
    def status(self) -> str:
        return self.combined.status if self.outcomes else PENDING

    @cached_property
    def _verdict(self) -> tuple[str, str]:
        return verdict(self.combined.obtained, self.kind, self.better, self.status, self.published, self.differs)

    @property
    def verdict(self) -> str:
        return self._verdict[0]

    @property
    def reason(self) -> str:
        said = [self.why_pending, self.combined.reason, self._verdict[1], self.note]
        return "; ".join(part for part in said if part)

    @property
    def bits_per_pixel(self) -> float | None:
        """The number obtained as bits of one original pixel; None where it is no log-likelihood of dequantised ones."""
        if not (self.space and self.unit == "nats" and self.metric.endswith("log_likelihood")):
            return None
        obtained = self.combined.obtained
        return None if obtained is None else bits_per_dimension(obtained, self.dimension, self.space)

    @property
    def bits_convention(self) -> str:
        return convention(self.space) if self.bits_per_pixel is not None else ""

    @property
    def key(self) -> str:
        return f"{self.row} | {self.column} | {self.metric}"


def build_entries(
    plan: Plan, name: str, experiment: Experiment, archive: Archive, published_folder: Path
) -> list[Entry]:
    """Every cell of one experiment, in the order of its rows: planned ones, selections and published rows.

    Raises:
        UserError: a published number that the experiment names cannot be found.
    """
    planned = {row.id: row for row in plan.rows[name]}
    own: dict[str, list[Entry]] = {row: [] for row in planned}
    for cell in plan.cells[name]:
        own[cell.row].append(_entry_of(cell, plan, archive, planned[cell.row].differs))
    entries: list[Entry] = []
    for row in planned.values():
        if row.row.select is not None:
            found = _selection(name, row, experiment, plan, own)
        elif row.row.pending is not None:
            found = _published_only(name, row, experiment, plan)
        else:
            found = own[row.id]
        entries += [_with_published(entry, row, name, published_folder) for entry in found]
    return entries


def declared_metric(estimator_name: str, metric: str) -> Metric:
    """What an estimator declares of a metric; a picture has no unit and no kind."""
    return Metric("", "score", "neither", "") if metric == PICTURE else estimator(estimator_name).METRICS[metric]


def _entry_of(cell: Cell, plan: Plan, archive: Archive, differs: str | None) -> Entry:
    outcomes = tuple(archive.outcome(r, e, cell.metric) for r, e in zip(cell.runs, cell.evaluations))
    if cell.metric == PICTURE:
        outcomes = tuple(_picture(archive, outcome) for outcome in outcomes)
    estimator_name = plan.evaluations[cell.evaluations[0]].estimator
    metric = declared_metric(estimator_name, cell.metric)
    if cell.metric in getattr(estimator(estimator_name), "CLOCK_READINGS", ()):
        outcomes = tuple(map(_steady, outcomes))
    run = plan.runs[cell.runs[0]]
    space = catalogue.space(run.dataset)
    about = catalogue.describe(catalogue.DatasetRef(run.dataset, run.dataset_options, run.dataset_identity))
    return Entry(
        **{k: getattr(cell, k) for k in ("experiment", "row", "row_name", "label", "column", "evaluation_name")},
        **{k: getattr(cell, k) for k in ("metric", "dataset", "model", "variant", "parameters", "settings")},
        estimator=estimator_name,
        unit=metric.unit,
        kind=metric.kind,
        better=metric.better,
        description=metric.description,
        control=cell.control,
        protocol=cell.protocol,
        outcomes=outcomes,
        differs=differs,
        space=space,
        dimension=math.prod(about.shape),
    )


def _steady(outcome: Outcome) -> Outcome:
    """A clock reading counts as not converged where its standard error is a large part of it."""
    value, error = outcome.value, outcome.number.get("estimator_se")
    if not value or error is None or error <= LARGEST_CLOCK_ERROR * abs(value):
        return outcome
    reason = f"its readings of the clock lie apart, by {error / abs(value):.0%} of it: time it on an idle machine"
    evidence = {"not_converged_because": reason} | (outcome.number.get("evidence") or {})
    return replace(outcome, number=outcome.number | {"converged": False, "evidence": evidence})


def _picture(archive: Archive, outcome: Outcome) -> Outcome:
    """An evaluation without numbers is done when its own file says so."""
    record = archive.evaluation(outcome.run, outcome.evaluation)
    return Outcome(outcome.run, outcome.evaluation, "done") if record and record["status"] == "done" else outcome


def _selection(
    name: str, row: PlannedRow, experiment: Experiment, plan: Plan, own: dict[str, list[Entry]]
) -> list[Entry]:
    """The best variant's cells under this row's name; variants that failed cannot win, pending ones block."""
    select = row.row.select
    variants = {
        other.id: own[other.id]
        for other in plan.rows[name]
        if other.name in select.row and other.dataset == row.dataset and own[other.id]
    }
    # One each: the plan was refused otherwise.
    deciding = {
        identity: next(e for e in entries if (e.evaluation_name, e.metric) == (select.by, select.metric))
        for identity, entries in variants.items()
    }
    blocked = [identity for identity, entry in deciding.items() if entry.status == PENDING]
    scored = {identity: e.combined.obtained for identity, e in deciding.items() if e.combined.obtained is not None}
    identity_of_row = {"row": row.id, "row_name": row.name, "label": row.row.label or row.name}
    if blocked or not scored:
        why = (
            f"row {', '.join(blocked)} has no validation value yet" if blocked else "no variant has a validation value"
        )
        if not variants:
            why = f"row {' and row '.join(select.row)} has no variants under this budget"
        template = next(iter(variants.values()), [])
        return [
            replace(
                entry,
                **identity_of_row,
                parameters={},
                variant="chosen on validation",
                outcomes=(),
                why_pending=why,
                control=row.row.control,
                protocol=row.protocol or entry.protocol,
                differs=_joined(row.differs, entry.differs),
            )
            for entry in template
        ] or _published_only(name, row, experiment, plan, why)
    sign = -1.0 if deciding[next(iter(scored))].better == "lower" else 1.0
    best = max(scored, key=lambda identity: sign * scored[identity])
    left_out = [identity for identity in deciding if identity not in scored]
    note = f"chosen among {len(deciding)} variants"
    if left_out:
        note += f", of which {', '.join(left_out)} failed"
    return [
        replace(
            entry,
            **identity_of_row,
            variant=", ".join(part for part in (entry.variant, "chosen on validation") if part),
            control=row.row.control,
            protocol=row.protocol or entry.protocol,
            differs=_joined(row.differs, entry.differs),
            note=note if left_out else "",
            selected=tuple(f"{identity}: {value:.6g}" for identity, value in scored.items()),
        )
        for entry in variants[best]
    ]


def _joined(*reasons: str | None) -> str | None:
    """What a selection says of its protocol: its own reason and that of the row it was made from, each once."""
    return "; ".join(dict.fromkeys(filter(None, reasons))) or None


def _published_only(
    name: str, row: PlannedRow, experiment: Experiment, plan: Plan, why: str | None = None
) -> list[Entry]:
    """The cells of a row that has no number of ours: one for each published number and column of its evaluation."""
    budget = experiment.budgets[plan.budget]
    entries = []
    for cell in row.row.published:
        evaluation = experiment.evaluations[cell.evaluation]
        metric = declared_metric(evaluation.estimator, cell.metric)
        for settings in combinations(budget.grid(cell.evaluation, evaluation)):
            entries.append(
                Entry(
                    experiment=name,
                    row=row.id,
                    row_name=row.name,
                    label=row.row.label or row.name,
                    column=f"{cell.evaluation} {spell(settings)}".strip(),
                    evaluation_name=cell.evaluation,
                    estimator=evaluation.estimator,
                    metric=cell.metric,
                    unit=metric.unit,
                    kind=metric.kind,
                    better=metric.better,
                    description=metric.description,
                    dataset=row.dataset,
                    model=str(cell.where.get("model", "")),
                    variant=spell(row.parameters),
                    parameters=row.parameters,
                    settings=settings,
                    control=row.row.control,
                    protocol=row.protocol,
                    differs=row.differs,
                    why_pending=why or row.row.pending or "",
                )
            )
    return entries


def _with_published(entry: Entry, row: PlannedRow, name: str, folder: Path) -> Entry:
    asked = (entry.evaluation_name, entry.metric)
    cell = next((c for c in row.row.published if (c.evaluation, c.metric) == asked), None)
    if cell is None:
        return entry
    where = f"experiment {name}, row {entry.row}, published ({cell.evaluation}, {cell.metric})"
    fill = {"dataset": entry.dataset, **entry.settings, **entry.parameters}
    if row.row.select is not None and not entry.outcomes and not placeholders(cell) <= fill.keys():
        return entry  # which number it is, the variant will say that is chosen
    return replace(entry, published=look_up(cell, fill, folder, where))
