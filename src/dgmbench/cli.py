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
MirrorFlag = Annotated[
    str | None,
    typer.Option(envvar="DGMBENCH_MIRROR", help="Folder or base URL asked first; params.yaml's where left out."),
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
) -> None:
    """Fetch the raw files of datasets into data/raw and verify them by sha256."""
    from dgmbench.data.catalogue import entries, entry
    from dgmbench.data.fetch import fetch as fetch_dataset
    from dgmbench.progress import ConsoleProgress

    mirror = mirror or _params().mirror
    failures = []
    for name in _named(names, everything, list(entries())):
        if not entry(name).files:
            print(f"{name}: generated, nothing to fetch")
            continue
        try:
            folder = fetch_dataset(
                name, Path("data/raw"), mirror=mirror, offline=offline, progress=ConsoleProgress(name)
            )
            print(f"{name}: verified in {folder}")
        except UserError as error:
            if not everything:
                raise
            failures.append(str(error))
            print(f"{name}: {error}", file=sys.stderr)
    if failures:
        raise UserError(f"{len(failures)} datasets could not be fetched; the reasons stand above.")


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
    show: Annotated[Path | None, typer.Option(help="Where to put a copy of the split certificate.")] = None,
) -> None:
    """Turn raw files into splits with a certificate, in data/prepared; deterministic to the byte."""
    from dgmbench.data.catalogue import entries, entry, resolve
    from dgmbench.data.prepare import prepare as prepare_dataset
    from dgmbench.files import write_bytes
    from dgmbench.progress import ConsoleProgress

    for name in _named(names, everything, list(entries())):
        if everything and entry(name).files and not Path("data/raw", name, "manifest.json").is_file():
            print(f"{name}: not fetched, left out (dgmbench fetch {name})")
            continue
        ref = resolve(name, _document(options, "--options"))
        folder = prepare_dataset(ref, Path("data/raw"), Path("data/prepared"), ConsoleProgress(name))
        if show is not None:
            write_bytes(show, (folder / "certificate.json").read_bytes())
        print(f"{name}: prepared in {folder}")


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
    from dgmbench.training.run import train as train_run

    it = _as(Run, _document(run, "--run"), "--run")
    manifest = train_run(
        it,
        Layout(_params(budget).budget),
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
        progress=ConsoleProgress(f"{it.model} on {it.dataset} ({it.id})"),
    )
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
    from dgmbench.assemble.ledger import collect
    from dgmbench.config import load_experiments
    from dgmbench.report.site import build

    params, experiments = _params(budget, seeds, only), load_experiments()
    ledger = collect(Path("results"), params, experiments)
    page = build(params, experiments, Path("results"))
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
    what: Annotated[Literal["model"], typer.Argument(help="What to make.")],
    name: Annotated[str, typer.Argument(help="Its name: lower case, digits and underscores.")],
    family: Annotated[str, typer.Option(help="Folder of models/ to put it in.")] = "mine",
) -> None:
    """Write the skeleton of a model: one file that works, passes the contract tests and waits for your equation."""
    from dgmbench import people

    people.new_model(name, family)


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


if __name__ == "__main__":
    main()
