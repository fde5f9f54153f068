"""The command line: the verbs that the rules call, and those for people. Heavy imports wait until a verb runs."""

import errno
import json
import os
import signal
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from dgmbench import __version__
from dgmbench.errors import UserError, nearest

app = typer.Typer(
    help="A benchmark suite of deep generative models. `make run` or `snakemake` runs the whole pipeline; these verbs "
    "are its single steps, and ways to look at it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
INTERRUPTED = 130
STEPS = "Steps of the pipeline"
PEOPLE = "For people"

# Each has an environment variable too: that is how the jobs of one Snakemake invocation learn what it was asked.
BudgetFlag = Annotated[
    str | None,
    typer.Option(envvar="DGMBENCH_BUDGET", help="smoke, demo, laptop or paper; params.yaml's where left out."),
]
SeedsFlag = Annotated[
    int | None, typer.Option(envvar="DGMBENCH_SEEDS", help="Training seeds, where they differ from the experiments'.")
]
OnlyFlag = Annotated[
    list[str] | None,
    typer.Option(envvar="DGMBENCH_ONLY", help="An experiment to include; may be repeated. All if left out."),
]
ThreadsFlag = Annotated[int, typer.Option(min=1, help="Processor threads; the bits of a result depend on them.")]
# Its variable is read by `_mirrors`: a list's entries would be cut at their blanks here.
MirrorFlag = Annotated[
    list[str] | None,
    typer.Option(
        help="Folder or base URL asked first; may be repeated, the best first. Where left out: the environment "
        "variable DGMBENCH_MIRROR, with commas between several, or params.yaml's."
    ),
]
OfflineFlag = Annotated[bool, typer.Option(envvar="DGMBENCH_OFFLINE", help="Never use the network.")]


def _params(budget: str | None = None, seeds: int | None = None, only: list[str] | None = None) -> Any:
    from dgmbench.config import Params, checked, load_params

    params = load_params()
    changes = {"budget": budget, "seeds": seeds, "experiments": only or None}
    values = params.model_dump() | {name: value for name, value in changes.items() if value is not None}
    return checked(Params, values, "command line")


def _document(text: str, flag: str) -> dict[str, Any]:
    """JSON given in place, or the JSON or YAML file named."""
    inline = text.lstrip().startswith("{")
    try:
        # Not YAML for both: YAML reads JSON's 1e-06 as a string.
        value = json.loads(text) if inline else yaml.safe_load(Path(text).read_text())
    except FileNotFoundError:
        raise UserError(
            f"{flag} takes a JSON object or the path of a file that holds one; there is no {text}."
        ) from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{flag} is not {'JSON' if inline else 'YAML'}: {error}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{flag} takes a JSON object or the path of a file that holds one, not {text!r}.")
    return value


def _as(kind: type, values: dict[str, Any], flag: str) -> Any:
    values = {name: value for name, value in values.items() if name != "id"}
    known = {f.name: f.default is MISSING for f in fields(kind)}
    lacking = [name for name, required in known.items() if required and name not in values]
    unknown = [name for name in values if name not in known]
    if lacking or unknown:
        said = [f"{what} {', '.join(names)}" for what, names in (("it lacks", lacking), ("unknown", unknown)) if names]
        raise UserError(f"{flag} does not describe one {kind.__name__.lower()}: {'; '.join(said)}.")
    return kind(**values)


@app.command(rich_help_panel=STEPS)
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
        _named(names, everything, list(entries())),
        Path("data/raw"),
        mirror=_mirrors(mirror),
        offline=offline or _params().offline,
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


def _mirrors(given: list[str] | None) -> tuple[str, ...]:
    """The command line's mirrors, or the environment's, or params.yaml's."""
    from dgmbench.config import MIRROR_VARIABLE, mirror_list

    return mirror_list(given) or mirror_list(os.environ.get(MIRROR_VARIABLE)) or _params().mirrors


def _named(names: list[str] | None, everything: bool, known: list[str]) -> list[str]:
    if everything:
        return known
    if not names:
        raise UserError("name a dataset, or write --all: 'dgmbench list datasets' shows them.")
    return names


@app.command(rich_help_panel=STEPS)
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
    for name in _named(names, everything, list(entries())):
        ref = resolve(name, _document(options, "--options"))
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


@app.command(rich_help_panel=STEPS)
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

    it = _as(Run, _document(run, "--run"), "--run")
    manifest = train_run(
        it,
        Layout(_params(budget).budget),
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
        progress=ConsoleProgress(f"{it.model} on {it.dataset} ({it.id})"),
    )
    if speaks():
        print(_outcome(f"train {it.model} on {it.dataset}, seed {it.seed} ({it.id})", manifest))


@app.command(rich_help_panel=STEPS)
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

    it = _as(Evaluation, _document(evaluation, "--evaluation"), "--evaluation")
    result = evaluate_run(
        it,
        Layout(_params(budget).budget),
        threads=threads,
        progress=ConsoleProgress(f"{it.estimator} of {it.run}"),
    )
    numbers = ", ".join(f"{n['metric']} {n['value']:.4g} {n['unit']}" for n in result["numbers"])
    print(_outcome(f"evaluate {it.run} by {it.estimator}", result) + (f": {numbers}" if numbers else ""))


def _outcome(what: str, result: dict[str, Any]) -> str:
    reason = f": {result['reason']}" if result["reason"] else ""
    return f"{what}: {result['status']} in {result['measured']['seconds']:.1f} s{reason}"


@app.command(rich_help_panel=STEPS)
def assemble(
    experiment: Annotated[str | None, typer.Argument(help="An experiment (`dgmbench list experiments`).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every experiment of the budget.")] = False,
    budget: BudgetFlag = None,
    seeds: SeedsFlag = None,
    only: OnlyFlag = None,
) -> None:
    """Make the tables, figures and provenance of an experiment from the numbers that are there."""
    from dgmbench.assemble.experiment import assemble as assemble_experiment
    from dgmbench.config import load_experiments

    params, experiments = _params(budget, seeds, only), load_experiments()
    known = [n for n, e in experiments.items() if params.budget in e.budgets]
    if experiment is None and not everything:
        raise UserError("name an experiment, or write --all: 'dgmbench list experiments' shows them.")
    names = [n for n in known if params.experiments == "all" or n in params.experiments] if everything else [experiment]
    for name in names:
        if name not in known:
            raise UserError(f"no experiment '{name}' under the budget '{params.budget}': {nearest(str(name), known)}")
        written = assemble_experiment(name, params, experiments)
        print(f"{name}: {len(written)} files under results/{params.budget}")


@app.command(rich_help_panel=STEPS)
def report(budget: BudgetFlag = None, seeds: SeedsFlag = None, only: OnlyFlag = None) -> None:
    """Join the tables into the ledger and write the page that a person reads."""
    from dgmbench.assemble.ledger import collect, of_budget, without_tables
    from dgmbench.config import load_experiments
    from dgmbench.report.site import build

    params, experiments, results = _params(budget, seeds, only), load_experiments(), Path("results")
    absent = without_tables(results, params, experiments)
    if absent and params.experiments == "all" and len(absent) < len(of_budget(params, experiments)):
        # A clone holds the tables that were committed: its page is about those, as long as no other is asked for.
        print(f"Left out, because nothing of theirs was assembled: {', '.join(absent)}.")
        experiments = {name: experiment for name, experiment in experiments.items() if name not in absent}
    ledger = collect(results, params, experiments)
    page = build(params, experiments, results)
    print(f"Ledger: {ledger}\nReport: {page}")


@app.command(rich_help_panel=STEPS)
def restore(
    budget: BudgetFlag = None,
    pull: Annotated[bool, typer.Option(help="Pull large files from the DVC remote first.")] = True,
) -> None:
    """After a clone: pull large files, verify every manifest, and tell Snakemake that nothing is to be done."""
    from dgmbench.restore import restore as restore_results

    restore_results(_params(budget), pull=pull)


@app.command("list", rich_help_panel=PEOPLE)
def list_(
    what: Annotated[
        Literal["models", "datasets", "estimators", "experiments", "all"], typer.Argument(help="What to list.")
    ] = "all",
    verify: Annotated[bool, typer.Option(help="Recompute every prepared dataset's certificate.")] = False,
) -> None:
    """Models with their capabilities, datasets, estimators with their kinds, experiments with their budgets."""
    from dgmbench import people

    people.show_lists(what, verify)


@app.command(rich_help_panel=PEOPLE)
def plan(budget: BudgetFlag = None, seeds: SeedsFlag = None, only: OnlyFlag = None) -> None:
    """Runs to do under a budget, with time, memory and disk predicted from earlier runs' measurements."""
    from dgmbench import people

    people.show_plan(_params(budget, seeds, only))


@app.command(rich_help_panel=PEOPLE)
def why(
    experiment: Annotated[str, typer.Argument(help="An experiment.")],
    row: Annotated[str, typer.Argument(help="A row of its table, as the ledger's column 'row' spells it.")],
    column: Annotated[str, typer.Argument(help="A column of its table, as the ledger's column 'column' spells it.")],
    budget: BudgetFlag = None,
) -> None:
    """Where a number comes from: estimator, settings, runs, spec, certificate, commit, machine."""
    from dgmbench.assemble.provenance import describe, find

    print(describe(find(Path("results"), _params(budget).budget, experiment, row, column)))


@app.command(rich_help_panel=PEOPLE)
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
        starting.new_dataset(name, path, _document(options, "--options"))
    else:
        if dataset is None:
            raise UserError("an experiment needs --dataset: the name of one (`dgmbench list datasets`).")
        starting.new_experiment(name, dataset)


@app.command(rich_help_panel=PEOPLE)
def schemas(
    check: Annotated[bool, typer.Option(help="Only say what differs; exit 2 where anything does.")] = False,
) -> None:
    """Write params.yaml's defaults, the JSON Schema files and the reference page from the schemas."""
    from dgmbench import reference

    reference.write(check)


def _version(value: bool) -> None:
    if value:
        print(f"dgmbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a person's mistake is one sentence and status 2, an interruption status 130."""
    # Snakemake and cluster schedulers stop a job with SIGTERM: treat it as Ctrl-C, so that nothing
    # half-written stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except UserError as error:
        print(f"dgmbench: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer has turned Ctrl-C into this
            print("dgmbench: interrupted; what was done is kept, start again to continue.", file=sys.stderr)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        print(
            f"dgmbench: the disk is full{where} ({os.strerror(error.errno)}); nothing half-written was left. "
            "Make room and start again.",
            file=sys.stderr,
        )
        sys.exit(2)
    finally:
        # All is done or undone: a signal that comes while the interpreter takes itself down has nothing to stop.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
