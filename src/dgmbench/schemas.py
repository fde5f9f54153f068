"""Schemas of an experiment: rows, evaluations, published numbers, orders, figure, budgets.

`dgmbench.config` reads and checks them. They write its JSON Schema file and the reference page too (docs/reference.md).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dgmbench.errors import nearest
from dgmbench.estimators.base import Kind

Budget = Literal["smoke", "demo", "laptop", "paper"]

# Without a value a grid would leave its row or column out, and a list of names all that it chooses from, in silence.
Grid = dict[str, Annotated[list[Any], Field(min_length=1)]]
Names = Annotated[list[str], Field(min_length=1)]


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedCell(Schema):
    """Where the published number of a cell stands: a file of results/published, a row of it, a column."""

    evaluation: str = Field(description="The evaluation (column of the table) that it stands beside.")
    metric: str = Field("log_likelihood", description="The metric that it stands beside.")
    file: str = Field(description="File of results/published, without .csv.")
    where: dict[str, Any] = Field(
        description="Column -> value that picks one row; '{name}' is filled in from the grid of the row."
    )
    value: str = Field(description="Column that holds the number.")
    spread: str | None = Field(None, description="Column that holds its spread, where one was published.")
    scale: float = Field(1.0, description="Multiplies the number: -1 where the paper prints negative log-likelihoods.")
    kind: Kind = Field(description="What sort of number was published.")
    tolerance: float = Field(gt=0, description="Largest difference still called reproduced, in the metric's unit.")
    protocol: str = Field(description="How the published number was measured, in a few words.")


class Select(Schema):
    """A row that repeats the variant, of one or several other rows, which is best on the validation split."""

    row: list[str] = Field(min_length=1, description="The row whose variants are compared, or a list of rows.")
    by: str = Field(description="The evaluation that decides; its settings must say split: validation.")
    metric: str = Field("log_likelihood", description="The metric that decides.")

    @field_validator("row", mode="before")
    @classmethod
    def _one_row(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Row(Schema):
    """One row of a table, or one for each combination of its grid."""

    label: str | None = Field(None, description="What the table prints; the row's name where left out.")
    model: str | None = Field(None, description="Name of the model (`dgmbench list models`).")
    spec: dict[str, Any] = Field(default_factory=dict, description="Hyper-parameters that differ from the defaults.")
    grid: Grid = Field(default_factory=dict, description="Hyper-parameter -> values: one row for each combination.")
    evaluate: Names = Field(default_factory=list, description="Names of the evaluations of this row.")
    seeds: int | None = Field(None, ge=1, description="Training seeds, where they differ from the budget's.")
    control: bool = Field(False, description="A row whose answer theory knows.")
    select: Select | None = Field(
        None, description="Take the best variant of one or several other rows instead of a model."
    )
    pending: str | None = Field(None, description="Published only: why there is no number of ours yet.")
    protocol: str | None = Field(None, description="What the ledger's protocol column says beside our numbers.")
    published: list[PublishedCell] = Field(default_factory=list, description="The published numbers of this row.")

    @model_validator(mode="after")
    def _one_origin(self) -> "Row":
        if sum(origin is not None for origin in (self.model, self.select, self.pending)) != 1:
            raise ValueError("a row has exactly one of 'model', 'select' and 'pending'")
        return self


class EvaluationPlan(Schema):
    """One column of a table, or one for each combination of its grid."""

    estimator: str = Field(description="Name of the estimator (`dgmbench list estimators`).")
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings that differ from the defaults.")
    grid: Grid = Field(default_factory=dict, description="Setting -> values: one column for each combination.")
    metrics: Names | None = Field(None, description="Which of the estimator's metrics to show; all if left out.")


class DatasetUse(Schema):
    """One of a budget's datasets: an entry of the catalogue, and how its options differ."""

    name: str = Field(description="Name of the dataset (`dgmbench list datasets`).")
    options: dict[str, Any] = Field(default_factory=dict, description="Options that differ from the entry's.")


class RowChange(Schema):
    """How a budget changes a row, or with `every_row` all rows that have a model: the keys of spec and grid that it
    gives replace those of the row, one by one."""

    spec: dict[str, Any] = Field(default_factory=dict, description="Hyper-parameters under this budget.")
    grid: Grid = Field(default_factory=dict, description="Grid values under this budget.")
    evaluate: Names | None = Field(None, description="Evaluations under this budget.")
    seeds: int | None = Field(None, ge=1, description="Training seeds under this budget.")
    threads: int | None = Field(None, ge=1, description="Processor threads for each job of this row.")
    processes: int = Field(
        1, ge=1, description="Processes that train each run of this row together, by torchrun; 1 for most models."
    )
    protocol: str | None = Field(None, description="The protocol column under this budget.")
    differs: str | None = Field(None, description="How this row's protocol differs from the published one.")
    as_published: dict[str, Any] = Field(
        default_factory=dict,
        description="Values of the row's grid at which its protocol is the published one after all: 'differs' then "
        "does not hold. Not for `every_row`.",
    )

    def over(self, other: "RowChange") -> "RowChange":
        """This change on top of another: its settings replace the other's, spec and grid key by key."""
        changed = {**other.model_dump(exclude_unset=True), **self.model_dump(exclude_unset=True)}
        keyed = {name: {**getattr(other, name), **getattr(self, name)} for name in ("spec", "grid")}
        return RowChange(**changed | keyed)


class EvaluationChange(Schema):
    """How a budget changes an evaluation: the keys of settings and grid that it gives replace the evaluation's."""

    settings: dict[str, Any] = Field(default_factory=dict, description="Settings under this budget.")
    grid: Grid = Field(default_factory=dict, description="Grid values under this budget.")


class BudgetPlan(Schema):
    """What an experiment does under one budget."""

    datasets: list[DatasetUse] = Field(min_length=1, description="The datasets; more than one repeats every row.")
    seeds: int = Field(1, ge=1, description="Training seeds of each row.")
    threads: int = Field(1, ge=1, description="Processor threads for each job.")
    differs: str | None = Field(
        None, description="How the protocol differs from the published one: every verdict then says so."
    )
    only: Names | None = Field(None, description="The rows under this budget, by name; all where left out.")
    every_row: RowChange = Field(
        default_factory=RowChange, description="Changes to every row that has a model; those of a row come on top."
    )
    rows: dict[str, RowChange] = Field(default_factory=dict, description="Changes to rows, by name.")
    evaluations: dict[str, EvaluationChange] = Field(default_factory=dict, description="Changes to evaluations.")

    def change(self, name: str, row: Row) -> RowChange | None:
        """What changes in a row; None where this budget leaves it out."""
        if self.only is not None and name not in self.only:
            return None
        own = self.rows.get(name, RowChange())
        return own if row.model is None else own.over(self.every_row)

    def grid(self, name: str, evaluation: EvaluationPlan) -> Grid:
        """Setting -> values of an evaluation's columns under this budget."""
        return {**evaluation.grid, **self.evaluations.get(name, EvaluationChange()).grid}

    def settings(self, name: str, evaluation: EvaluationPlan) -> dict[str, Any]:
        """The settings of an evaluation under this budget that are the same in all of its columns."""
        return {**evaluation.settings, **self.evaluations.get(name, EvaluationChange()).settings}


class OrderPlan(Schema):
    """Rows whose order is compared with the published one, by Spearman's rank correlation; a line of the table for each
    dataset and column. Each row must have a published number of this evaluation and metric."""

    title: str = Field(description="What the table prints for it.")
    evaluation: str = Field(description="The evaluation (column of the table) that orders them.")
    metric: str = Field("log_likelihood", description="The metric that orders them.")
    rows: list[str] = Field(min_length=1, description="The rows, by name; every combination of their grids counts.")
    where: dict[str, Any] = Field(
        default_factory=dict, description="Hyper-parameter -> value: which combinations of the rows' grids count."
    )


class FigurePlan(Schema):
    """The experiment's main figure."""

    name: str = Field(description="Which figure (its module of dgmbench.assemble.figures).")
    options: dict[str, Any] = Field(default_factory=dict, description="Options that differ from its defaults.")


class Experiment(Schema):
    """One table or figure of a document: which runs, which evaluations, which published numbers beside them."""

    title: str = Field(description="Heading of the table.")
    document: str = Field(description="The document that it comes from: authors, title.")
    source: str = Field(description="Which table, figure or section of it.")
    question: str = Field(description="What the experiment answers, in a sentence or two.")
    rows: dict[str, Row] = Field(min_length=1, description="The rows, by name.")
    evaluations: dict[str, EvaluationPlan] = Field(min_length=1, description="The columns, by name.")
    paired_with: str | dict[str, Any] | None = Field(
        None,
        description="What numbers are compared with, example by example, in the paired table: a row's name; or values "
        "of grids, as in {formulas: paper}: each row's number with its own one at these values.",
    )
    paired_by: str | None = Field(None, description="Evaluation that the paired comparison uses.")
    orders: list[OrderPlan] = Field(
        default_factory=list, description="Rank correlations with the published numbers that the table ends with."
    )
    figure: FigurePlan = Field(description="The main figure.")
    budgets: dict[Budget, BudgetPlan] = Field(min_length=1, description="What is done under each budget.")

    def grid_of(self, name: str) -> dict[str, list[Any]]:
        """Hyper-parameter -> its values in a row's grid, under any budget; of a selection, in those of its rows."""
        row = self.rows[name]
        changes = [budget.change(name, row) or RowChange() for budget in self.budgets.values()]
        grids = [row.grid, *(change.grid for change in changes)]
        grids += [self.grid_of(other) for other in (row.select.row if row.select else [])]
        return {key: [value for grid in grids for value in grid.get(key, [])] for grid in grids for key in grid}

    def settings_of(self, evaluation: str) -> set[str]:
        """The settings in an evaluation's grid, under any budget."""
        changes = [budget.evaluations.get(evaluation, EvaluationChange()) for budget in self.budgets.values()]
        return {*self.evaluations[evaluation].grid, *(setting for change in changes for setting in change.grid)}

    def evaluations_of(self, name: str) -> set[str]:
        """The evaluations of a row, under any budget: of a selection those of its rows, of a pending row all."""
        row = self.rows[name]
        if row.pending is not None:
            return set(self.evaluations)
        if row.select is not None:
            return {evaluation for other in row.select.row for evaluation in self.evaluations_of(other)}
        changes = [budget.change(name, row) or RowChange() for budget in self.budgets.values()]
        return {*row.evaluate, *(evaluation for change in changes for evaluation in change.evaluate or [])}

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        for budget, plan in self.budgets.items():
            self._check_budget(f"budgets.{budget}", plan)
        for name, row in self.rows.items():
            _check_names(row.evaluate, self.evaluations, f"rows.{name}.evaluate")
            if row.select:
                self._check_selection(f"rows.{name}.select", name, row.select)
        for name, row in self.rows.items():
            self._check_published(f"rows.{name}.published", name, row.published)
        for number, order in enumerate(self.orders):
            self._check_order(f"orders.{number}", order)
        if (self.paired_with is None) != (self.paired_by is None):
            raise ValueError("write both 'paired_with' and 'paired_by', or neither")
        if self.paired_with is not None and self.paired_by is not None:
            self._check_paired_with(self.paired_with)
            _check_names([self.paired_by], self.evaluations, "paired_by")
        return self

    def _check_paired_with(self, paired_with: str | dict[str, Any]) -> None:
        if isinstance(paired_with, str):
            _check_names([paired_with], self.rows, "paired_with")
            return
        if not paired_with:
            raise ValueError("paired_with: has no value; write at least one, or leave it and 'paired_by' out")
        known: dict[str, list[Any]] = {}
        for row in (*self.rows.values(), *(row for plan in self.budgets.values() for row in plan.rows.values())):
            for name, values in row.grid.items():
                known[name] = [*known.get(name, []), *values]
        _check_names(paired_with, known, "paired_with")
        _check_within(paired_with, known, "paired_with", "no row has")

    def _check_budget(self, where: str, plan: BudgetPlan) -> None:
        _check_names(plan.only or [], self.rows, f"{where}.only")
        _check_names(plan.rows, self.rows, f"{where}.rows")
        if left_out := [name for name in plan.rows if plan.only is not None and name not in plan.only]:
            raise ValueError(
                f"{where}.rows: '{left_out[0]}' is not among the rows of {where}.only: add it there, or leave its "
                "change out"
            )
        _check_names(plan.every_row.evaluate or [], self.evaluations, f"{where}.every_row.evaluate")
        if plan.every_row.as_published:
            raise ValueError(
                f"{where}.every_row.as_published: rows have grids of their own; write it under {where}.rows"
            )
        for name, change in plan.rows.items():
            _check_names(change.evaluate or [], self.evaluations, f"{where}.rows.{name}.evaluate")
            grid = {**self.rows[name].grid, **(plan.change(name, self.rows[name]) or change).grid}
            _check_values(change.as_published, grid, f"{where}.rows.{name}.as_published", name)
        _check_names(plan.evaluations, self.evaluations, f"{where}.evaluations")

    def _check_selection(self, where: str, name: str, select: Select) -> None:
        _check_names(select.row, self.rows, f"{where}.row")
        for other in select.row:
            if self.rows[other].model is None:
                what = "is the row itself" if other == name else "has no model"
                known = ", ".join(key for key, row in self.rows.items() if row.model is not None) or "none"
                raise ValueError(f"{where}.row: '{other}' {what}; write rows that have a model: {known}")
        _check_names([select.by], self.evaluations, f"{where}.by")
        if self.evaluations[select.by].settings.get("split") != "validation":
            raise ValueError(f"{where}.by: '{select.by}' must have settings: {{split: validation}}")

    def _check_published(self, where: str, name: str, cells: list[PublishedCell]) -> None:
        seen = set()
        for cell in cells:
            _check_names([cell.evaluation], self.evaluations, where)
            self._require_evaluation(where, name, cell.evaluation)
            if (cell.evaluation, cell.metric) in seen:
                raise ValueError(f"{where}: '{cell.metric}' of '{cell.evaluation}' stands there twice; keep one")
            seen.add((cell.evaluation, cell.metric))

    def _check_order(self, where: str, order: OrderPlan) -> None:
        if order.title in self.rows:
            raise ValueError(f"{where}.title: '{order.title}' is the name of a row; write another")
        if [other.title for other in self.orders].count(order.title) > 1:
            raise ValueError(f"{where}.title: '{order.title}' is the title of two orders; write another")
        _check_names(order.rows, self.rows, f"{where}.rows")
        _check_names([order.evaluation], self.evaluations, f"{where}.evaluation")
        for name in order.rows:
            if order.rows.count(name) > 1:
                raise ValueError(f"{where}.rows: '{name}' stands there twice; keep one")
            if self.rows[name].pending is not None:
                raise ValueError(
                    f"{where}.rows: row '{name}' is pending, and has no number that could be ordered; take it out"
                )
            self._require_evaluation(f"{where}.evaluation", name, order.evaluation)
            if (order.evaluation, order.metric) not in {(c.evaluation, c.metric) for c in self.rows[name].published}:
                raise ValueError(
                    f"{where}.rows: row '{name}' has no published '{order.metric}' of '{order.evaluation}'; add it to "
                    f"rows.{name}.published, or take the row out"
                )
            _check_values(order.where, self.grid_of(name), f"{where}.where", name)

    def _require_evaluation(self, where: str, name: str, evaluation: str) -> None:
        has = self.evaluations_of(name)
        if evaluation not in has:
            raise ValueError(
                f"{where}: row '{name}' is not evaluated by '{evaluation}'; add it to the row's 'evaluate', or write "
                f"one that it has: {', '.join(sorted(has)) or 'none'}"
            )


def _check_names(used: Any, known: dict[str, Any], where: str) -> None:
    for name in used:
        if name not in known:
            raise ValueError(f"{where}: there is no '{name}', {nearest(name, known)}")


def _check_values(used: dict[str, Any], grid: dict[str, list[Any]], where: str, row: str) -> None:
    _check_names(used, grid, f"{where}, row '{row}'")
    _check_within(used, grid, where, f"row '{row}' has no")


def _check_within(used: dict[str, Any], grid: dict[str, list[Any]], where: str, lacking: str) -> None:
    for key, value in used.items():
        if value not in grid[key]:
            values = ", ".join(dict.fromkeys(map(str, grid[key])))
            raise ValueError(f"{where}.{key}: {lacking} {value!r} in its grid, but {values}")
