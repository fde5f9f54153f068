"""What an experiment says of its selections, orders, published numbers and figure, held against its plan.

What only the experiment's own names decide is checked by its schema; here estimators, figures and the files of
published numbers are asked, before anything is run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgmbench.assemble.figures.base import NameOf
from dgmbench.assemble.figures.registry import figure
from dgmbench.assemble.published import file_of, look_up, placeholders
from dgmbench.config import checked
from dgmbench.errors import UserError, nearest
from dgmbench.estimators.base import Metric
from dgmbench.estimators.registry import estimator
from dgmbench.grids import combinations, spell
from dgmbench.schemas import Experiment, PublishedCell

if TYPE_CHECKING:
    from dgmbench.runs import Plan, PlannedRow


def check_experiment(plan: "Plan", name: str, experiment: Experiment) -> None:
    """Raises `UserError` for a metric, a selection or a figure of an experiment that cannot be had."""
    for row_name, row in experiment.rows.items():
        where = f"experiment {name}, row {row_name}"
        for cell in row.published:
            _require_metric(experiment, cell.evaluation, cell.metric, f"{where}, published")
        if row.select is not None:
            metric = _require_metric(experiment, row.select.by, row.select.metric, f"{where}, select.metric")
            if metric.better == "neither":
                deciding = [m for m, it in _metrics(experiment, row.select.by).items() if it.better != "neither"]
                raise UserError(
                    f"{where}, select.metric: neither more nor less of '{row.select.metric}' is better, so nothing can "
                    f"be chosen by it; write one that decides: {', '.join(deciding) or 'none'}."
                )
    _check_selections(plan, name)
    _check_figure(name, experiment)


def check_published(plan: "Plan", name: str, experiment: Experiment, folder: Path) -> None:
    """Raises `UserError` where a published number that a planned row names cannot be found in the folder, or a file
    that any row names."""
    for row_name, row in experiment.rows.items():
        for cell in row.published:
            file_of(cell, folder, f"experiment {name}, row {row_name}, published ({cell.evaluation}, {cell.metric})")
    for row in plan.rows[name]:
        for cell in row.row.published:
            where = f"experiment {name}, row {row.id}, published ({cell.evaluation}, {cell.metric})"
            for fill in _fills(plan, name, experiment, row, cell):
                look_up(cell, {"dataset": row.dataset, **fill}, folder, where)


def _fills(
    plan: "Plan", name: str, experiment: Experiment, row: "PlannedRow", cell: PublishedCell
) -> list[dict[str, Any]]:
    """Settings and parameters of every cell of ours that a published number stands beside: of a selection, which may
    choose any, those of each variant."""
    own = [row.id] if row.row.select is None else [variant.id for variant in _variants(plan, name, row)]
    if row.row.pending is None and own:
        asked = (cell.evaluation, cell.metric)
        cells = (c for c in plan.cells[name] if c.row in own and (c.evaluation_name, c.metric) == asked)
        return [{**c.settings, **c.parameters} for c in cells]
    budget = experiment.budgets[plan.budget]
    columns = combinations(budget.grid(cell.evaluation, experiment.evaluations[cell.evaluation]))
    fills = [{**settings, **row.parameters} for settings in columns]
    return [fill for fill in fills if row.row.pending is not None or placeholders(cell) <= {"dataset", *fill}]


def _variants(plan: "Plan", name: str, row: "PlannedRow") -> list["PlannedRow"]:
    """The rows that a selection chooses among."""
    return [other for other in plan.rows[name] if other.name in row.row.select.row and other.dataset == row.dataset]


def _metrics(experiment: Experiment, evaluation: str) -> dict[str, Metric]:
    """The numbers that the columns of an evaluation show."""
    use = experiment.evaluations[evaluation]
    declared = estimator(use.estimator).METRICS
    return {name: metric for name, metric in declared.items() if use.metrics is None or name in use.metrics}


def _require_metric(experiment: Experiment, evaluation: str, metric: str, where: str) -> Metric:
    shown = _metrics(experiment, evaluation)
    if metric not in shown:
        raise UserError(f"{where}: the evaluation '{evaluation}' gives no '{metric}'; {nearest(metric, shown)}")
    return shown[metric]


def _check_selections(plan: "Plan", name: str) -> None:
    """A selection needs one deciding number of each variant that it looks through, on the validation split."""
    for row in plan.rows[name]:
        select = row.row.select
        if select is None:
            continue
        found = dict.fromkeys(
            (c.row for c in plan.cells[name] if c.row_name in select.row and c.dataset == row.dataset), 0
        )
        for cell in plan.cells[name]:
            if cell.row in found and (cell.evaluation_name, cell.metric) == (select.by, select.metric):
                found[cell.row] += 1
                splits = {plan.evaluations[evaluation].settings.get("split") for evaluation in cell.evaluations}
                if splits != {"validation"}:
                    raise UserError(
                        f"experiment {name}, row {row.name}, select.by: under the budget {plan.budget} '{select.by}' "
                        f"scores the split {', '.join(map(str, splits))}, and nothing may be chosen but on validation; "
                        "write split: validation there."
                    )
        for variant, count in found.items():
            if count != 1:
                raise UserError(
                    f"experiment {name}, row {row.name}: '{select.by}' gives row {variant} {count} values of "
                    f"'{select.metric}'; 'select' needs exactly one: evaluate the row by it, without a grid."
                )


def _check_figure(name: str, experiment: Experiment) -> None:
    where = f"experiment {name}, figure"
    try:
        module = figure(experiment.figure.name)
    except UserError as error:
        raise UserError(f"{where}.name: {error}") from None
    options = checked(module.Options, experiment.figure.options, f"{where}.options")
    for option in sorted(options.model_fields_set):
        for mark in type(options).model_fields[option].metadata:
            if isinstance(mark, NameOf):
                _check_names(experiment, mark, getattr(options, option), f"{where}.options.{option}")


def _check_names(experiment: Experiment, mark: NameOf, value: Any, where: str) -> None:
    known = set(_known(experiment, mark.what))
    for word in [value] if isinstance(value, str) else value or []:
        if word not in known:
            raise UserError(f"{where}: the experiment has no {mark.what} '{word}', {nearest(word, known)}")
        if mark.grid and value[word][0] not in experiment.settings_of(word):
            setting, grids = value[word][0], experiment.settings_of(word)
            raise UserError(f"{where}.{word}: its grid has no '{setting}', {nearest(setting, grids)}")


def _known(experiment: Experiment, what: str) -> Iterator[str]:
    """Names that an option of a figure may use, under any budget."""
    evaluations = experiment.evaluations
    if what == "hyper-parameter":
        yield from (parameter for row in experiment.rows for parameter in experiment.grid_of(row))
    elif what == "row":
        yield from experiment.rows
    elif what == "estimator":
        yield from (use.estimator for use in evaluations.values())
    elif what == "metric":
        yield from (metric for name in evaluations for metric in _metrics(experiment, name))
    else:
        yield from evaluations
    if what == "column":
        for name, use in evaluations.items():
            for budget in experiment.budgets.values():
                yield from (f"{name} {spell(settings)}".strip() for settings in combinations(budget.grid(name, use)))
