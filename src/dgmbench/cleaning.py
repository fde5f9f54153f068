"""Superseded runs and evaluations: no experiment asks for them any more, as settings, data or code have moved on.

A run counts as asked for whatever its seed and device: those are chosen for a machine, and not superseded. What a table
still shows is kept.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dgmbench.files import canonical_json, read_json
from dgmbench.layout import Layout
from dgmbench.params import Params
from dgmbench.people import console, table
from dgmbench.runs import MEANING, make_plan
from dgmbench.schemas import Experiment

_IDENTITY = re.compile("[0-9a-f]{12}")


@dataclass(frozen=True)
class Leftover:
    """A run or an evaluation that nothing asks for: its folders or files, their size, whose tables still show it."""

    id: str
    run: str  # of which it is an evaluation, or itself
    what: str
    paths: tuple[Path, ...]
    bytes: int
    shown: tuple[str, ...]


def clean(params: Params, experiments: dict[str, Experiment], layout: Layout, *, delete: bool) -> None:
    """Print the leftovers of a budget, and delete those that no table shows where `delete` is set."""
    found = leftovers(params, experiments, layout)
    kept, free = [x for x in found if x.shown], [x for x in found if not x.shown]
    if free:
        rows = [(x.id, x.what, f"{x.bytes / 1e6:,.1f} MB", ", ".join(map(str, x.paths))) for x in free]
        heading = ("id", "what", "size", "folders or files")
        title = f"Superseded runs and evaluations of the budget {params.budget}: no experiment asks for them"
        console().print(table(title, heading, rows))
    total = f"{_counted(free)}, {sum(x.bytes for x in free) / 1e6:,.1f} MB"
    if not free:
        print(f"Every run of the budget {params.budget} is asked for, or shown by a table: there is nothing to delete.")
    elif delete:
        for path in (path for x in free for path in x.paths):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        print(f"Deleted: {total}.")
    else:
        print(
            f"{total}. Nothing was deleted: `dgmbench clean --budget {params.budget} --yes` deletes what is listed "
            "above, and nothing else."
        )
    if kept:
        names = ", ".join(sorted({name for x in kept for name in x.shown}))
        print(
            f"{_counted(kept)} {'is' if len(kept) == 1 else 'are'} kept, with or without --yes, because "
            f"the tables of {names} still show {'it' if len(kept) == 1 else 'them'}: once `snakemake --cores all "
            f"--config budget={params.budget}` has made these tables anew, `clean` lists what they no longer show."
        )


def leftovers(params: Params, experiments: dict[str, Experiment], layout: Layout) -> list[Leftover]:
    """What no experiment asks for: runs under results/, data/runs/ and work/ of the budget, evaluations of others."""
    plan = make_plan(params.model_copy(update={"experiments": "all"}), experiments)
    asked = {_meaning(run.document) for run in plan.runs.values()}
    shown = {name: _shown(layout.results / "provenance" / f"{name}.json") for name in plan.experiments}
    rooms = (layout.run, layout.blobs, layout.work)
    there = {path.name for room in rooms for path in room("any").parent.glob("*") if _IDENTITY.fullmatch(path.name)}

    def leftover(identity: str, run: str, what: str, paths: list[Path]) -> Leftover:
        files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
        by = tuple(name for name, shows in shown.items() if identity in shows)
        return Leftover(identity, run, what, tuple(paths), sum(file.stat().st_size for file in files), by)

    found = []
    for run in sorted(there):
        if run in plan.runs:
            files = [path for room in (layout.run, layout.blobs) for path in room(run).glob("*.*")]
            names = {path.stem for path in files if _IDENTITY.fullmatch(path.stem)}
            for name in sorted(names - set(plan.evaluations)):
                paths = sorted(path for path in files if path.stem == name)
                found.append(leftover(name, run, f"an evaluation of {run}", paths))
            continue
        document = _document(layout, run)
        if document and _meaning(document) in asked:
            continue
        words = (str(document.get(name, "?")) for name in ("model", "dataset", "seed"))
        what = "a run of {} on {}, seed {}".format(*words)
        found.append(leftover(run, run, what, [room(run) for room in rooms if room(run).is_dir()]))
    return found


def _counted(found: list[Leftover]) -> str:
    """`2 superseded runs and 1 superseded evaluation`."""
    runs = sum(x.id == x.run for x in found)
    counts = ((runs, "run"), (len(found) - runs, "evaluation"))
    return " and ".join(f"{n} superseded {name}{'' if n == 1 else 's'}" for n, name in counts if n)


def _meaning(document: dict[str, Any]) -> str:
    return canonical_json({name: document.get(name) for name in MEANING})


def _document(layout: Layout, identity: str) -> dict[str, Any]:
    path = layout.run(identity) / "spec.yaml"
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def _shown(provenance: Path) -> set[str]:
    if not provenance.is_file():
        return set()
    found = read_json(provenance)
    return {*found["runs"], *found["evaluations"]}
