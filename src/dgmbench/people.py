"""What people look at on a terminal: lists, and the plan with its predicted cost."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from dgmbench.config import load_experiments
from dgmbench.errors import UserError
from dgmbench.params import Params

if TYPE_CHECKING:
    from dgmbench.runs import Plan


def console() -> Console:
    """A terminal's width where there is one; wide enough not to fold words where there is none."""
    out = Console()
    return out if out.is_terminal else Console(width=160)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    table = Table(*columns, title=title, title_justify="left", title_style="bold", header_style="bold", expand=False)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


def show_lists(what: str, verify: bool) -> None:
    shows = {
        "models": _models,
        "datasets": _datasets,
        "estimators": _estimators,
        "experiments": _experiments,
    }
    out = console()
    for name, show in shows.items():
        if what in (name, "all"):
            out.print(show())
    if verify:
        _verify(out)


def _first_line(documentation: str | None) -> str:
    return (documentation or "").strip().splitlines()[0] if documentation else ""


def _models() -> Table:
    import importlib

    from dgmbench.models.base import capabilities
    from dgmbench.models.registry import model_class, model_family, model_modules

    rows = []
    for name, module in model_modules().items():
        cls = model_class(name)
        summary = _first_line(importlib.import_module(module).__doc__)
        rows.append((name, model_family(name), ", ".join(capabilities(cls)), ", ".join(sorted(cls.accepts)), summary))
    return table("Models", ("model", "family", "capabilities", "values", "what"), rows)


def _datasets() -> Table:
    from dgmbench.data.catalogue import describe, entries, resolve

    rows = []
    for name, entry in entries().items():
        about = describe(resolve(name, {}))
        files = f"{len(entry.files)} file{'s' if len(entry.files) > 1 else ''}" if entry.files else "generated"
        rows.append((name, about.values, "x".join(map(str, about.shape)), files, entry.licence, entry.title))
    return table("Datasets", ("dataset", "values", "shape", "source", "licence", "what"), rows)


def _estimators() -> Table:
    from dgmbench.estimators.registry import estimator, estimator_modules

    rows = []
    for name in estimator_modules():
        module = estimator(name)
        gives = [f"{metric} ({m.unit}, {m.kind})" for metric, m in module.METRICS.items()]
        rows.append((name, module.REQUIRES.__name__, ", ".join(gives) or "pictures", _first_line(module.__doc__)))
    return table("Estimators", ("estimator", "asks for", "gives", "what"), rows)


def _experiments() -> Table:
    rows = [
        (name, ", ".join(e.budgets), f"{e.document}, {e.source}", e.title) for name, e in load_experiments().items()
    ]
    return table("Experiments", ("experiment", "budgets", "source", "what"), rows)


def _verify(out: Console) -> None:
    from dgmbench.data.certificate import read_certificate, verify
    from dgmbench.progress import ConsoleProgress

    folders = sorted(path.parent for path in Path("data/prepared").glob("*/certificate.json"))
    rows, broken = [], []
    with ConsoleProgress().task("verify datasets", total=len(folders), unit="dataset") as task:
        for folder in folders:
            problems = verify(folder)
            rows.append((folder.name, *_facts(read_certificate(folder)), "; ".join(problems) or "ok"))
            broken += [folder.name] if problems else []
            task.advance()
    heading = ("prepared", "train", "validation", "test", "values", "mean", "range", "drawn anew", "rows shared")
    out.print(table("Prepared datasets, each certificate recomputed from the arrays", (*heading, "certificate"), rows))
    prepared = {folder.name.rpartition("-")[0] for folder in folders}
    from dgmbench.data.catalogue import entries

    if absent := [name for name in entries() if name not in prepared]:
        print(f"Not prepared here: {', '.join(absent)} (dgmbench fetch --all && dgmbench prepare --all).")
    if broken:
        raise UserError(f"{', '.join(broken)}: remove the folder under data/prepared and prepare it again.")


def _facts(certificate: dict[str, Any]) -> tuple[str, ...]:
    splits = certificate["splits"]
    sizes = (f"{splits[name]['rows']:,}" if name in splits else "" for name in ("train", "validation", "test"))
    first = next(splits[name] for name in ("train", "validation", "test") if name in splits)
    shape = "x".join(map(str, certificate["shape"]))
    shared = sum(certificate["shared_rows"].values())
    known = "known" if "duplicates" in certificate["notes"] else "not explained"
    return (
        *sizes,
        f"{certificate['values']} {shape} {first['dtype'].lstrip('<|')}",
        f"{first['mean']:.5f}",
        f"{first['min']:.4g} to {first['max']:.4g}",
        ", ".join(certificate["binarize"]) or "",
        f"{shared:,} ({known})" if shared else "0",
    )


def _rows_of_runs(plan: "Plan") -> dict[str, str]:
    """Run -> `experiment: row` with the values of its grid, of every table that it is trained for."""
    names: dict[str, dict[str, None]] = {run: {} for run in plan.runs}
    for cells in plan.cells.values():
        for cell in cells:
            for run in cell.runs:
                names[run].setdefault(f"{cell.experiment}: {cell.row}")
    return {run: "; ".join(found) for run, found in names.items()}


def show_plan(params: Params) -> None:
    """Runs and evaluations to do, by experiment and row, and what they will cost by what earlier ones measured."""
    from dgmbench.format import duration
    from dgmbench.layout import Layout
    from dgmbench.predict import Costs
    from dgmbench.runs import Evaluation, make_plan

    layout = Layout(params.budget)
    plan = make_plan(params, load_experiments(), layout.published)
    costs, names = Costs.measured(Path("results")), _rows_of_runs(plan)
    rows, unknown = [], 0
    total_seconds, peak, disk = 0.0, 0.0, 0.0
    missing_of: dict[str, list[Evaluation]] = {identity: [] for identity in plan.runs}
    for evaluation in plan.evaluations.values():
        if not layout.evaluation(evaluation.run, evaluation.id).is_file():
            missing_of[evaluation.run].append(evaluation)
    for run in plan.runs.values():
        missing = missing_of[run.id]
        trained = layout.manifest(run.id).is_file()
        if trained and not missing:
            continue
        predictions = ([] if trained else [costs.of_run(run)]) + [costs.of_evaluation(e, run) for e in missing]
        known = [p for p in predictions if p is not None]
        unknown += len(predictions) - len(known)
        seconds = sum(p.seconds for p in known)
        memory, size = max((p.memory_mb for p in known), default=0.0), sum(p.bytes for p in known)
        total_seconds, peak, disk = total_seconds + seconds, max(peak, memory), disk + size
        what = "evaluate" if trained else "train"
        basis = "nothing measured" if not known else "/".join(sorted({p.basis for p in known}))
        more = "at least " if len(known) < len(predictions) else ""
        cost = (more + duration(seconds), f"{memory:,.0f} MB", f"{size / 1e6:,.1f} MB") if known else ("unknown",) * 3
        rows.append((names[run.id], run.id, run.model, run.dataset, run.seed, what, len(missing), *cost, basis))
    out = console()
    heading = (
        "experiment: row",
        "run",
        "model",
        "dataset",
        "seed",
        "to do",
        "evaluations",
        "time",
        "memory",
        "disk",
        "predicted from",
    )
    out.print(table(f"To do under the budget {params.budget}", heading, rows))
    done = len(plan.runs) - len(rows)
    predicted = (
        f"{'at least ' if unknown else ''}{duration(total_seconds)} of one job after another, {peak:,.0f} MB for "
    )
    predicted += f"the largest, {disk / 1e6:,.1f} MB of disk"
    if unknown and not total_seconds:
        predicted = "unknown"
    print(
        f"{len(plan.experiments)} experiments, {len(plan.runs)} runs ({done} complete), {len(plan.evaluations)} "
        f"evaluations. Predicted: {predicted}; {unknown} jobs have no measurement to predict from."
    )
