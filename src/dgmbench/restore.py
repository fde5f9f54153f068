"""After a clone: bring the large files, verify all that manifests name, and tell Snakemake what is done already.

Git holds the small files of results/<budget>/, DVC the large ones under data/. The report's page is in neither, for
it is made from the small files in a second; nor are Snakemake's own records, without which every time stamp of a
fresh clone looks new.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgmbench.data import certificate
from dgmbench.data.fetch import MANIFEST
from dgmbench.errors import UserError
from dgmbench.files import read_json, sha256_file
from dgmbench.layout import Layout
from dgmbench.params import Params
from dgmbench.people import console, table
from dgmbench.progress import ConsoleProgress, Progress
from dgmbench.report.site import build
from dgmbench.workflow import Workflow

OK, MISSING, ALTERED = "ok", "missing", "altered"
SHOWN = 10  # names of files or jobs that a message lists; the rest is counted

# What it means that large files are not here, by what they are; {budget} is filled in.
_CONSEQUENCES = {
    "raw files": "they are fetched again when a dataset must be prepared",
    "prepared datasets": "'snakemake datasets --cores all --config budget={budget}' fetches and prepares them again, "
    "the same to the byte",
    "models": "those runs keep their numbers, but cannot be evaluated anew until their models are pulled or the runs "
    "trained again (remove their manifest.json)",
    "per-example values and arrays": "those numbers, paired comparisons and pictures stand as they are until the files "
    "are pulled or the evaluations made again (remove their .json)",
}


@dataclass(frozen=True)
class Check:
    """One large file or folder that a manifest names, and the test of it, which says what is wrong or nothing."""

    what: str  # a key of _CONSEQUENCES
    path: Path
    problem: Callable[[], str | None]


@dataclass(frozen=True)
class Finding:
    what: str
    path: Path
    state: str
    problem: str = ""


def restore(params: Params, pull: bool) -> None:
    """Pull, verify, touch, and say what remains to be done.

    Raises:
        UserError: files are not what their manifests say, or DVC or Snakemake failed.
    """
    bench = Workflow(params.model_dump())
    if pull:
        _pull(params.budget)
    findings = verify(bench.layout, ConsoleProgress("restore"))
    _show(findings, params.budget)
    altered = [f"{f.path}: {f.problem}" for f in findings if f.state == ALTERED]
    if altered:
        raise UserError(
            f"{len(altered)} files are not what their manifests say; remove them and run 'dgmbench restore "
            f"--budget {params.budget}' again, or make them anew:\n  {_shortened(altered, chr(10) + '  ')}"
        )
    remake_page(bench)
    targets = finished_targets(bench)
    if targets:
        print(f"Telling Snakemake that {len(targets)} results are there ...", flush=True)
        _snakemake(params, *targets, "--touch", "--forceall", "--quiet", "all")
    remaining = _dry_run(params)
    if not remaining:
        print(f"Nothing is to be done: the results of the budget {params.budget} are complete.")
        return
    command = f"snakemake --cores all --config budget={params.budget}"
    print(f"{len(remaining)} jobs remain ('{command}' does them): {_shortened(remaining, '; ')}.")


def verify(layout: Layout, progress: Progress) -> list[Finding]:
    """Hold every large file of a budget against the manifest that names it."""
    checks = [*_raw_checks(layout), *_prepared_checks(layout), *_result_checks(layout)]
    findings = []
    with progress.task("verify", total=len(checks), unit="file") as task:
        for check in checks:
            problem = check.problem() if check.path.exists() else None
            state = ALTERED if problem else OK if check.path.exists() else MISSING
            findings.append(Finding(check.what, check.path, state, problem or ""))
            task.advance()
    return findings


def _raw_checks(layout: Layout) -> Iterator[Check]:
    wanted = {(c["name"], file) for c in map(read_json, _certificates(layout)) for file in c["raw"]}
    for name, file in sorted(wanted):
        path = layout.raw / name / file
        yield Check("raw files", path, lambda path=path: _raw_problem(path))


def _prepared_checks(layout: Layout) -> Iterator[Check]:
    for shown in _certificates(layout):
        folder = layout.prepared / shown.stem
        yield Check("prepared datasets", folder, lambda folder=folder, shown=shown: _dataset_problem(folder, shown))


def _result_checks(layout: Layout) -> Iterator[Check]:
    for path in sorted((layout.results / "runs").glob("*/*.json")):
        for name, stored in read_json(path)["files"].items():
            file = layout.root / stored["path"]
            what = "models" if name == "model" else "per-example values and arrays"
            yield Check(what, file, lambda file=file, stored=stored: _difference(file, stored))


def _certificates(layout: Layout) -> list[Path]:
    return sorted((layout.results / "datasets").glob("*.json"))


def _raw_problem(path: Path) -> str | None:
    if not (path.parent / MANIFEST).is_file():
        return f"there is no {MANIFEST} beside it"
    rows = {row["file"]: row for row in read_json(path.parent / MANIFEST)["files"]}
    return _difference(path, rows[path.name]) if path.name in rows else f"{MANIFEST} does not name it"


def _difference(path: Path, stored: dict[str, Any]) -> str | None:
    size = path.stat().st_size
    if size != stored["bytes"]:
        return f"{size:,} bytes, not {stored['bytes']:,}"
    found = sha256_file(path)
    return None if found == stored["sha256"] else f"sha256 {found[:12]}..., not {stored['sha256'][:12]}..."


def _dataset_problem(folder: Path, shown: Path) -> str | None:
    try:
        if certificate.read_certificate(folder) != read_json(shown):
            return f"its certificate is not the one of {shown}"
        return "; ".join(certificate.verify(folder)) or None
    except UserError as error:
        return str(error)


def _show(findings: list[Finding], budget: str) -> None:
    counts = {what: [f.state for f in findings if f.what == what] for what in _CONSEQUENCES}
    rows = [(what, *(states.count(s) for s in (OK, MISSING, ALTERED))) for what, states in counts.items() if states]
    if not rows:
        print("No manifest names a large file: there is nothing to verify.")
        return
    console().print(table("Large files, held against their manifests", ("what", OK, MISSING, ALTERED), rows))
    for what, ok, missing, altered in rows:
        if missing:
            meaning = _CONSEQUENCES[what].format(budget=budget)
            print(f"{missing} of {ok + missing + altered} {what} are not here: {meaning}.")


def remake_page(bench: Workflow) -> None:
    """Write the report's page, which git does not hold, where everything that it is made from is there."""
    *ledger, page = bench.reported
    made_from = [*ledger, *(path for name in bench.plan.experiments for path in bench.assembled(name))]
    if not page.is_file() and _all_there(made_from):
        build(bench.params, bench.experiments, bench.layout.results.parent)


def finished_targets(bench: Workflow) -> list[str]:
    """Files whose making Snakemake may count as done: everything that they are made of and with is there.

    Whole experiments and the report where their tables show what is planned now, single results elsewhere.
    """
    targets: list[str] = []
    finished = True
    for name in bench.plan.experiments:
        inputs, assembled = [Path(path) for path in bench.results_of(name)], bench.assembled(name)
        if _all_there([*inputs, *assembled]) and _shows_the_plan(name, bench) and not _can_be_drawn_anew(name, bench):
            targets.append(str(assembled[0]))
        else:
            finished = False
            targets += _finished_results(bench, name)
    datasets = [bench.layout.certificate(key) for key in bench.plan.datasets]
    if finished and _all_there([*bench.reported, *datasets]):
        targets.append(str(bench.reported[0]))
    return list(dict.fromkeys(targets))


def _can_be_drawn_anew(experiment: str, bench: Workflow) -> bool:
    """Whether a picture stands as it was drawn before, and everything that it showed then is here now."""
    shown = read_json(bench.layout.results / "provenance" / f"{experiment}.json")
    for picture in shown.get("pictures", {}).values():
        if picture["kept"]:
            planned = [bench.plan.evaluations[i] for i in picture["drawn_from"] if i in bench.plan.evaluations]
            records = [read_json(bench.layout.evaluation(e.run, e.id)) for e in planned]
            if _all_there([Path(r["files"]["arrays"]["path"]) for r in records if "arrays" in (r["files"] or {})]):
                return True
    return False


def _shows_the_plan(experiment: str, bench: Workflow) -> bool:
    """Whether an experiment's tables were made from exactly the evaluations that it asks for."""
    shown = read_json(bench.layout.results / "provenance" / f"{experiment}.json")["evaluations"]
    planned = set(bench.plan.evaluations_of(experiment))
    return planned == set(shown) and all(shown[e]["status"] is not None for e in planned)


def _finished_results(bench: Workflow, experiment: str) -> list[str]:
    found = []
    for identity in bench.plan.evaluations_of(experiment):
        run = bench.plan.evaluations[identity].run
        training = [
            bench.layout.manifest(run),
            bench.layout.run(run) / "spec.yaml",
            bench.layout.run(run) / "history.csv",
        ]
        if _all_there(training):
            found.append(str(training[0]))
            evaluation = bench.layout.evaluation(run, identity)
            found += [str(evaluation)] if evaluation.is_file() else []
    return found


def _all_there(paths: Iterable[Path]) -> bool:
    return all(path.is_file() for path in paths)


def _pull(budget: str) -> None:
    remotes = _command("dvc", "remote", "list").stdout.split()
    if not remotes:
        print(
            "No DVC remote is configured, so nothing is pulled: going on with the files that are here "
            "(dvc remote add --default <name> <address> sets one)."
        )
        return
    print("Pulling large files ...", flush=True)
    done = _command("dvc", "pull", "--allow-missing")
    print(done.stdout.strip())
    if done.returncode != 0:
        raise UserError(
            f"'dvc pull' failed: {_last_line(done.stderr)}. Check the remote ('dvc remote list'), or leave it out with "
            f"'dgmbench restore --no-pull --budget {budget}'."
        )


def _dry_run(params: Params) -> list[str]:
    """The jobs that `snakemake` would run now, by their messages."""
    done = _snakemake(params, "all", "--dry-run", "--quiet", "host")
    return re.findall(r"^Job \d+: (.*)$", done.stdout + done.stderr, flags=re.MULTILINE)


def _snakemake(params: Params, *arguments: str) -> subprocess.CompletedProcess:
    done = _command("snakemake", *arguments, "--cores", "1", "--config", f"budget={params.budget}")
    if done.returncode != 0:
        raise UserError(f"'snakemake {' '.join(arguments[-3:])}' failed: {_last_line(done.stdout + done.stderr)}")
    return done


def _command(module: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("ERROR: ") if lines else "it said nothing"


def _shortened(lines: list[str], separator: str) -> str:
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return separator.join([*lines[:SHOWN], *more])
