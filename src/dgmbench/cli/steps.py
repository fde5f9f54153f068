"""The verbs that the workflow's rules call. Heavy imports wait until a verb runs."""

import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from dgmbench.cli.arguments import (
    BudgetFlag,
    MirrorFlag,
    OfflineFlag,
    OnlyFlag,
    SeedsFlag,
    ThreadsFlag,
    described,
    document,
    mirrors,
    named,
    resolved_params,
)
from dgmbench.errors import UserError, nearest

NOTHING_YET = "left out, because nothing of it has been computed yet"


def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Datasets (`dgmbench list datasets`).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dataset of the catalogue.")] = False,
    mirror: MirrorFlag = None,
    offline: OfflineFlag = False,
    jobs: Annotated[int, typer.Option(min=1, max=32, help="Files that are fetched at the same time.")] = 4,
) -> None:
    """Fetch the raw files of datasets into data/raw and verify them by sha256; what was interrupted is continued."""
    from dgmbench import people
    from dgmbench.data.catalogue import entries
    from dgmbench.data.fetch import fetch_all
    from dgmbench.fetching import console_display, table

    results = fetch_all(
        named(names, everything, list(entries())),
        Path("data/raw"),
        mirror=mirrors(mirror),
        offline=offline or resolved_params().offline,
        jobs=jobs,
        display=console_display(),
    )
    failures = [result for result in results if result.error is not None]
    if everything or len(results) > 1:
        people.console().print(table(results))
        if failures:
            reasons = "".join(f"\n  {result.name}: {result.error}" for result in failures)
            raise UserError(f"{len(failures)} of {len(results)} datasets could not be fetched:{reasons}")
    elif failures:
        raise UserError(failures[0].error)
    else:
        name, rows, folder = results[0].name, results[0].rows, results[0].folder
        print(f"{name}: verified in {folder}" if rows else f"{name}: generated, nothing to fetch")


def prepare(
    names: Annotated[list[str] | None, typer.Argument(help="Datasets (`dgmbench list datasets`).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dataset that was fetched, by its defaults.")] = False,
    options: Annotated[str, typer.Option(help="JSON of options that differ from the entry's.")] = "{}",
    show: Annotated[
        Path | None, typer.Option(help="Where to put a copy of the split certificate, and its picture as .png.")
    ] = None,
) -> None:
    """Turn raw files into splits with a certificate, in data/prepared; deterministic to the byte."""
    from dgmbench.data.catalogue import entries, resolve
    from dgmbench.preparation import prepare_measured
    from dgmbench.report import cards

    raw, prepared = Path("data/raw"), Path("data/prepared")
    if everything:
        _prepare_all(list(entries()), raw, prepared)
        return
    for name in named(names, everything, list(entries())):
        ref = resolve(name, document(options, "--options"))
        folder, cost = prepare_measured(ref, raw, prepared)
        if show is not None:
            cards.write_card(folder, show)
        elif ref == resolve(name):
            cards.write_card(folder, cards.FOLDER / f"{name}.json")
        print(
            f"{name}: prepared in {folder}: {cost.rows:,} rows in {cost.seconds:.1f} s "
            f"({cost.rows_per_second:,.0f} rows/s), peak {cost.peak_mb:,.0f} MB"
        )


def _prepare_all(names: list[str], raw: Path, prepared: Path) -> None:
    from dgmbench import people, preparation
    from dgmbench.report.cards import FOLDER

    results = preparation.prepare_all(names, raw, prepared, FOLDER)
    preparation.write_benchmark(FOLDER / "preparation.csv", results)
    people.console().print(preparation.table(results))
    if failed := [r.dataset for r in results if r.status == preparation.FAILED]:
        raise UserError(f"{', '.join(failed)} could not be prepared; the reasons stand above.")


def train(
    run: Annotated[str, typer.Option(help="The run as JSON, or a spec.yaml that holds it.")],
    budget: BudgetFlag = None,
    threads: ThreadsFlag = 1,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, envvar="DGMBENCH_CHECKPOINT_SECONDS", help="Least seconds between checkpoints.")
    ] = 30.0,
) -> None:
    """Train one run, or continue it from its checkpoint. A run that fails is a status, not an error."""
    from dgmbench.layout import Layout
    from dgmbench.progress import ConsoleProgress
    from dgmbench.runs import Run
    from dgmbench.training.run import speaks
    from dgmbench.training.run import train as train_run

    it = described(Run, document(run, "--run"), "--run")
    manifest = train_run(
        it,
        Layout(resolved_params(budget).budget),
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
        progress=ConsoleProgress(f"{it.model} on {it.dataset} ({it.id})"),
    )
    if speaks():
        print(_outcome(f"train {it.model} on {it.dataset}, seed {it.seed} ({it.id})", manifest))


def evaluate(
    evaluation: Annotated[str, typer.Option(help="The evaluation as JSON, or a file that holds it.")],
    budget: BudgetFlag = None,
    threads: ThreadsFlag = 1,
) -> None:
    """Apply one estimator to one trained run. A refusal or a failure is a status, not an error."""
    from dgmbench.evaluation import evaluate as evaluate_run
    from dgmbench.layout import Layout
    from dgmbench.progress import ConsoleProgress
    from dgmbench.runs import Evaluation

    it = described(Evaluation, document(evaluation, "--evaluation"), "--evaluation")
    result = evaluate_run(
        it,
        Layout(resolved_params(budget).budget),
        threads=threads,
        progress=ConsoleProgress(f"{it.estimator} of {it.run}"),
    )
    numbers = ", ".join(f"{n['metric']} {n['value']:.4g} {n['unit']}" for n in result["numbers"])
    print(_outcome(f"evaluate {it.run} by {it.estimator}", result) + (f": {numbers}" if numbers else ""))


def _outcome(what: str, result: dict[str, Any]) -> str:
    reason = f": {result['reason']}" if result["reason"] else ""
    return f"{what}: {result['status']} in {result['measured']['seconds']:.1f} s{reason}"


def assemble(
    experiment: Annotated[str | None, typer.Argument(help="An experiment (`dgmbench list experiments`).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every experiment of the budget.")] = False,
    budget: BudgetFlag = None,
    seeds: SeedsFlag = None,
    only: OnlyFlag = None,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway",
            help="Write although numbers of the present tables were not made again, which are then pending; and let "
            "no difference or picture stand that was made from large files that are not here.",
        ),
    ] = False,
) -> None:
    """Make the tables, figures and provenance of an experiment from the numbers that are there.

    Refuses, and writes nothing, where numbers would be lost that the present tables show. What was made from large
    files that are not on this machine stands: see `restore`. With --all, an experiment that cannot be assembled keeps
    its earlier tables and costs no other (the status is then 2), and one of which nothing was computed is left out.
    """
    from dgmbench.assemble.experiment import assemble as assemble_experiment
    from dgmbench.config import load_experiments

    params, experiments = resolved_params(budget, seeds, only), load_experiments()
    known = [n for n, e in experiments.items() if params.budget in e.budgets]
    if experiment is None and not everything:
        raise UserError("name an experiment, or write --all: 'dgmbench list experiments' shows them.")
    names = [n for n in known if params.experiments == "all" or n in params.experiments] if everything else [experiment]
    broken: list[str] = []
    for name in names:
        if name not in known:
            raise UserError(f"no experiment '{name}' under the budget '{params.budget}': {nearest(str(name), known)}")
        try:
            written = assemble_experiment(name, params, experiments, anyway=anyway, only_begun=everything)
        except Exception as error:
            if not everything:
                raise
            if isinstance(error, UserError):
                named_already = str(error).startswith((f"{name}:", f"experiment {name},"))
                broken.append(str(error) if named_already else f"{name}: {error}")
            else:
                traceback.print_exc()
                broken.append(f"{name}: {type(error).__name__}: {error}")
            continue
        print(f"{name}: " + (f"{len(written)} files under results/{params.budget}" if written else NOTHING_YET))
    if broken:
        raise UserError(f"{len(broken)} of {len(names)} experiments could not be assembled:\n  " + "\n  ".join(broken))


def report(
    budget: BudgetFlag = None,
    seeds: SeedsFlag = None,
    only: OnlyFlag = None,
    present: Annotated[bool, typer.Option("--present", help="Leave out experiments that were not assembled.")] = False,
) -> None:
    """Join the tables into the ledger and write the page that a person reads.

    Both are about every experiment of the budget that has been assembled; those asked for have to be.
    """
    from dgmbench.assemble.ledger import collect, of_budget, without_tables
    from dgmbench.config import load_experiments
    from dgmbench.report.site import build

    params, experiments, results = resolved_params(budget, seeds, only), load_experiments(), Path("results")
    # A run of one experiment must not take the others out of a ledger that holds them.
    whole = params.model_copy(update={"experiments": "all"})
    asked, absent = of_budget(params, experiments), without_tables(results, whole, experiments)
    if len(absent) == len(of_budget(whole, experiments)):
        raise UserError(
            f"nothing of the budget {params.budget} has been assembled: run "
            f"`snakemake --cores all --config budget={params.budget}`, or write another budget."
        )
    optional = present or params.experiments == "all"
    left_out = [name for name in absent if optional or name not in asked]
    not_assembled = {name: experiments[name] for name in left_out if name in asked}
    if not_assembled:
        # A clone holds the tables that were committed: its page is about those, as long as no other is asked for.
        print(f"Left out, because nothing of theirs was assembled: {', '.join(not_assembled)}.")
    experiments = {name: experiment for name, experiment in experiments.items() if name not in left_out}
    ledger = collect(results, whole, experiments)
    page = build(whole, experiments, results, not_assembled)
    print(f"Ledger: {ledger}\nReport: {page}")


def restore(
    budget: BudgetFlag = None,
    pull: Annotated[bool, typer.Option(help="Pull large files from the DVC remote first.")] = True,
) -> None:
    """After a clone: pull large files, verify every manifest, and tell Snakemake that nothing is to be done."""
    from dgmbench.restore import restore as restore_results

    restore_results(resolved_params(budget), pull=pull)
