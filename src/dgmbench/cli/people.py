"""The verbs for people: what is there, what is to be done, where a number comes from, something new, something old."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dgmbench.cli.arguments import BudgetFlag, OnlyFlag, SeedsFlag, document, resolved_params
from dgmbench.errors import UserError


def list_(
    what: Annotated[
        Literal["models", "datasets", "estimators", "experiments", "all"], typer.Argument(help="What to list.")
    ] = "all",
    verify: Annotated[bool, typer.Option(help="Recompute every prepared dataset's certificate.")] = False,
) -> None:
    """Models with their capabilities, datasets, estimators with their kinds, experiments with their budgets."""
    from dgmbench import people

    people.show_lists(what, verify)


def plan(budget: BudgetFlag = None, seeds: SeedsFlag = None, only: OnlyFlag = None) -> None:
    """Runs to do under a budget, with time, memory and disk predicted from earlier runs' measurements."""
    from dgmbench import people

    people.show_plan(resolved_params(budget, seeds, only))


def why(
    experiment: Annotated[str, typer.Argument(help="An experiment.")],
    row: Annotated[str, typer.Argument(help="A row of its table, as the ledger's column 'row' spells it.")],
    column: Annotated[str, typer.Argument(help="A column of its table, as the ledger's column 'column' spells it.")],
    budget: BudgetFlag = None,
) -> None:
    """Where a number comes from: estimator, settings, runs, spec, certificate, commit, machine."""
    from dgmbench.assemble.provenance import describe, find
    from dgmbench.assemble.superseded import marked, superseded_cells
    from dgmbench.config import load_experiments
    from dgmbench.runs import make_plan

    params, experiments = resolved_params(budget), load_experiments()
    found = find(Path("results"), params.budget, experiment, row, column)
    if experiment in experiments and params.budget in experiments[experiment].budgets:
        plan = make_plan(params.model_copy(update={"experiments": [experiment]}), experiments)
        old = superseded_cells(found, experiment, plan)
        found["cells"] = {key: marked(cell, old.get(key)) for key, cell in found["cells"].items()}
    print(describe(found))


def new(
    what: Annotated[Literal["model", "dataset", "experiment"], typer.Argument(help="What to make.")],
    name: Annotated[str, typer.Argument(help="Its name: lower case and digits; a model's with _, others with -.")],
    family: Annotated[str, typer.Option(help="model: folder of models/ to put it in.")] = "mine",
    path: Annotated[
        Path | None, typer.Option(help="dataset: your folder or archive of images, or .npy, .npz, .csv, .parquet file.")
    ] = None,
    options: Annotated[str, typer.Option(help="dataset: JSON of options of its loader.")] = "{}",
    dataset: Annotated[str | None, typer.Option(help="experiment: the dataset to try every model on.")] = None,
) -> None:
    """Write one file that works as it is: a model's skeleton, the entry of a dataset of your own, or an experiment
    that tries every model that a dataset allows."""
    from dgmbench import starting

    if what == "model":
        starting.new_model(name, family)
    elif what == "dataset":
        if path is None:
            raise UserError("a dataset needs --path: the folder of images or the file that holds it.")
        starting.new_dataset(name, path, document(options, "--options"))
    else:
        if dataset is None:
            raise UserError("an experiment needs --dataset: the name of one (`dgmbench list datasets`).")
        starting.new_experiment(name, dataset)


def clean(
    budget: BudgetFlag = None,
    seeds: SeedsFlag = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is listed; without it nothing is deleted.")] = False,
) -> None:
    """List superseded runs and evaluations of a budget, with their sizes, and delete them only with --yes.

    Superseded is what no experiment asks for any more, because its settings, its data or the meaning of its code have
    changed since. Kept, always: runs that are asked for, whatever their seed and device, and superseded ones that a
    table still shows. What is deleted of a run is its folder under results/BUDGET/runs, data/runs/BUDGET and
    work/BUDGET; of an evaluation, its files there.
    """
    from dgmbench.cleaning import clean as clean_runs
    from dgmbench.config import load_experiments
    from dgmbench.layout import Layout

    params = resolved_params(budget, seeds)
    clean_runs(params, load_experiments(), Layout(params.budget), delete=yes)


def schemas(
    check: Annotated[bool, typer.Option(help="Only say what differs; exit 2 where anything does.")] = False,
) -> None:
    """Write params.yaml's defaults, the JSON Schema files and the reference page from the schemas."""
    from dgmbench import reference

    reference.write(check)
