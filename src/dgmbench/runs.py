"""From experiments and a budget to runs: what is to be trained and evaluated, and which cell needs it.

Functions of their arguments, of the code's fingerprints and of the published numbers: no file is written and no data
are read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dgmbench.config import checked
from dgmbench.data import catalogue
from dgmbench.errors import UserError, nearest
from dgmbench.estimators.registry import estimator, estimator_module
from dgmbench.files import short_hash
from dgmbench.fingerprint import code_fingerprint
from dgmbench.grids import combinations, spell
from dgmbench.models.base import capabilities
from dgmbench.models.registry import model_class, model_module
from dgmbench.params import Params
from dgmbench.plan_checks import check_experiment, check_published
from dgmbench.schemas import BudgetPlan, DatasetUse, EvaluationPlan, Experiment, Row, RowChange

PICTURE = ""  # the metric of a cell whose evaluation gives arrays for a picture, and no number
# What a run is of: all of `Run` but the seed and the device, which are chosen for a machine.
MEANING = ("model", "spec", "dataset", "dataset_options", "dataset_identity", "code")


@dataclass(frozen=True)
class Run:
    """One model trained on one dataset with one resolved spec and one seed."""

    model: str
    spec: dict[str, Any]
    dataset: str
    dataset_options: dict[str, Any]
    dataset_identity: str
    seed: int
    code: str
    device: str = "cpu"

    @property
    def document(self) -> dict[str, Any]:
        """What the identity is hashed from. The device counts where it is not the processor: its bits are others."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("device", "cpu")}

    @cached_property
    def id(self) -> str:
        return short_hash(self.document)

    @property
    def dataset_key(self) -> str:
        return f"{self.dataset}-{self.dataset_identity}"


@dataclass(frozen=True)
class Evaluation:
    """One estimator with resolved settings applied to one run."""

    run: str
    estimator: str
    settings: dict[str, Any]
    code: str

    @property
    def document(self) -> dict[str, Any]:
        """What the identity is hashed from. Which rows of a split are scored counts where not all of them are."""
        rows = {} if self.settings.get("examples") is None else {"rows": "evenly spaced"}
        return asdict(self) | rows

    @cached_property
    def id(self) -> str:
        return short_hash(self.document)


@dataclass(frozen=True)
class Cell:
    """One number of a table before it is known: a row, a column, a metric, and an evaluation for each seed."""

    experiment: str
    row: str
    row_name: str
    label: str
    column: str
    evaluation_name: str
    metric: str
    dataset: str
    model: str
    variant: str
    parameters: dict[str, Any]  # of the row's grid
    settings: dict[str, Any]  # of the evaluation's grid
    runs: tuple[str, ...]
    evaluations: tuple[str, ...]
    control: bool
    protocol: str


@dataclass(frozen=True)
class PlannedRow:
    """One row of one table under one budget: a model's variant, a selection, or a published row alone."""

    name: str  # as in the experiment's file
    id: str  # with the grid's values
    row: Row
    dataset: str
    parameters: dict[str, Any]
    protocol: str
    differs: str | None  # from the published protocol, where it does


@dataclass
class Plan:
    """Everything that a budget asks for, by identity."""

    budget: str
    datasets: dict[str, catalogue.DatasetRef] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    cells: dict[str, list[Cell]] = field(default_factory=dict)
    rows: dict[str, list[PlannedRow]] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)

    @property
    def experiments(self) -> list[str]:
        return list(self.cells)

    def evaluations_of(self, experiment: str) -> list[str]:
        return list(dict.fromkeys(e for cell in self.cells[experiment] for e in cell.evaluations))


def make_plan(params: Params, experiments: dict[str, Experiment], published: Path | None = None) -> Plan:
    """The plan of every experiment that has this budget, or of the named ones.

    Where the folder of the published numbers is given, each number that a row names is looked up there.

    Raises:
        UserError: a name, a spec, a setting or a combination that cannot work, before anything is run.
    """
    chosen = experiments if params.experiments == "all" else _chosen(params.experiments, experiments, params.budget)
    plan = Plan(params.budget)
    for name, experiment in chosen.items():
        if params.budget in experiment.budgets:
            _plan_experiment(plan, name, experiment, params)
            check_experiment(plan, name, experiment)
            if published is not None:
                check_published(plan, name, experiment, published)
    if not plan.cells:
        raise UserError(f"no experiment has the budget '{params.budget}'.")
    return plan


def _chosen(names: Iterable[str], experiments: dict[str, Experiment], budget: str) -> dict[str, Experiment]:
    for name in names:
        if name not in experiments:
            raise UserError(f"experiments: there is no '{name}', {nearest(name, experiments)}")
        if budget not in experiments[name].budgets:
            has = ", ".join(experiments[name].budgets)
            raise UserError(f"experiments: '{name}' has no budget '{budget}'; write one of: {has}.")
    return {name: experiments[name] for name in names}


def _plan_experiment(plan: Plan, name: str, experiment: Experiment, params: Params) -> None:
    budget = experiment.budgets[plan.budget]
    plan.cells[name], plan.rows[name] = [], []
    for use in budget.datasets:
        ref = catalogue.resolve(use.name, use.options)
        for row_name, row in experiment.rows.items():
            change = budget.change(row_name, row)
            if change is None:
                continue
            for planned in _planned_rows(row_name, row, change, budget, use, len(budget.datasets) > 1):
                plan.rows[name].append(planned)
                if row.model is not None:
                    plan.datasets[ref.key] = ref
                    _plan_row(plan, name, experiment, budget, planned, change, ref, params)


def _planned_rows(
    name: str, row: Row, change: RowChange, budget: BudgetPlan, use: DatasetUse, several_datasets: bool
) -> Iterator[PlannedRow]:
    grid = {**row.grid, **change.grid}
    for parameters in combinations(grid):
        shown = {"dataset": use.name, **parameters} if several_datasets else parameters
        identity = f"{name} {spell(shown)}".strip()
        protocol = change.protocol or row.protocol or ""
        differs = change.differs or budget.differs
        if change.as_published and all(parameters.get(key) == value for key, value in change.as_published.items()):
            differs = None
        yield PlannedRow(name, identity, row, use.name, parameters, protocol, differs)


def _plan_row(
    plan: Plan,
    name: str,
    experiment: Experiment,
    budget: BudgetPlan,
    planned: PlannedRow,
    change: RowChange,
    ref: catalogue.DatasetRef,
    params: Params,
) -> None:
    row, where = planned.row, f"experiment {name}, row {planned.id}"
    model = model_class(row.model)
    spec = checked(model.Spec, {**row.spec, **change.spec, **planned.parameters}, f"{where}, spec")
    values = catalogue.describe(ref).values
    if values not in model.accepts:
        raise UserError(
            f"{where}: model '{row.model}' is defined on {' or '.join(sorted(model.accepts))} values, and dataset "
            f"'{ref.name}' holds {values} ones; choose another dataset or model."
        )
    _require_split(ref, "train", where)
    code = code_fingerprint(model_module(row.model))
    # A row's own count wins over the budget's: closed forms and controls need no second seed.
    count = change.seeds or row.seeds or params.seeds or budget.seeds
    runs = [
        Run(row.model, spec.model_dump(mode="json"), ref.name, ref.options, ref.identity, seed, code, params.device)
        for seed in range(count)
    ]
    if change.processes > 1 and not getattr(model, "distributed", False):
        raise UserError(f"{where}: model '{row.model}' trains in one process; remove processes.")
    for run in runs:
        plan.runs[run.id] = run
        plan.threads[run.id] = max(plan.threads.get(run.id, 1), change.threads or budget.threads)
        plan.processes[run.id] = max(plan.processes.get(run.id, 1), change.processes)
    evaluate = row.evaluate if change.evaluate is None else change.evaluate
    for evaluation_name in evaluate:
        evaluation_plan = experiment.evaluations[evaluation_name]
        fixed = budget.settings(evaluation_name, evaluation_plan)
        for settings in combinations(budget.grid(evaluation_name, evaluation_plan)):
            column = f"{evaluation_name} {spell(settings)}".strip()
            evaluations = _evaluations(evaluation_plan, {**fixed, **settings}, runs, model, f"{where}, {column}")
            plan.evaluations.update({e.id: e for e in evaluations})
            declared = estimator(evaluation_plan.estimator).METRICS
            for split in {e.settings["split"] for e in evaluations if declared}:
                _require_split(ref, split, f"{where}, {column}")
            metrics = list(declared) if evaluation_plan.metrics is None else evaluation_plan.metrics
            for metric in metrics or [PICTURE]:
                if metric not in declared and metric != PICTURE:
                    raise UserError(f"{where}, {column}: estimator gives {', '.join(declared)}, and no '{metric}'.")
                plan.cells[name].append(
                    Cell(
                        experiment=name,
                        row=planned.id,
                        row_name=planned.name,
                        label=row.label or planned.name,
                        column=column,
                        evaluation_name=evaluation_name,
                        metric=metric,
                        dataset=ref.name,
                        model=row.model,
                        variant=spell(planned.parameters),
                        parameters=planned.parameters,
                        settings=settings,
                        runs=tuple(run.id for run in runs),
                        evaluations=tuple(e.id for e in evaluations),
                        control=row.control,
                        protocol=planned.protocol,
                    )
                )


def _require_split(ref: catalogue.DatasetRef, split: str, where: str) -> None:
    has = catalogue.splits(ref)
    if split not in has:
        raise UserError(
            f"{where}: dataset '{ref.name}' has no {split} split with these options, only {', '.join(has)}; choose "
            "another dataset, or options that give it one."
        )


def _evaluations(
    evaluation: EvaluationPlan, settings: dict[str, Any], runs: list[Run], model: type, where: str
) -> list[Evaluation]:
    module = estimator(evaluation.estimator)
    resolved = checked(module.Settings, settings, f"{where}, settings").model_dump(mode="json")
    if not issubclass(model, module.REQUIRES):
        has = ", ".join(capabilities(model)) or "none"
        raise UserError(
            f"{where}: estimator '{evaluation.estimator}' asks for the capability {module.REQUIRES.__name__}, and "
            f"this model has {has}; take the evaluation out of the row or choose another estimator."
        )
    code = evaluation_code(evaluation.estimator)
    return [Evaluation(run.id, evaluation.estimator, resolved, code) for run in runs]


def evaluation_code(name: str) -> str:
    """What an evaluation depends on: its estimator's code, and how standard errors over examples are made."""
    return code_fingerprint(estimator_module(name), "dgmbench.uncertainty")
