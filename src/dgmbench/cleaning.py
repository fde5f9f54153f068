"""Superseded runs: no experiment asks for them any more, as a spec, the data or the meaning of the code has moved on.

A run counts as asked for whatever its seed and device: those are chosen for a machine, and not superseded. A superseded
run that a table still shows is kept.
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
    """A run that nothing asks for: its folders, their size, and the experiments whose tables still show it."""

    id: str
    document: dict[str, Any]  # empty where the run left no spec
    folders: tuple[Path, ...]
    bytes: int
    shown: tuple[str, ...]


def clean(params: Params, experiments: dict[str, Experiment], layout: Layout, *, delete: bool) -> None:
    """Print the leftovers of a budget, and delete those that no table shows where `delete` is set."""
    found = leftovers(params, experiments, layout)
    kept, free = [x for x in found if x.shown], [x for x in found if not x.shown]
    if free:
        rows = [(*_described(x), f"{x.bytes / 1e6:,.1f} MB", ", ".join(map(str, x.folders))) for x in free]
        heading = ("run", "model", "dataset", "seed", "size", "folders")
        console().print(
            table(f"Superseded runs of the budget {params.budget}: no experiment asks for them", heading, rows)
        )
    total = f"{len(free)} superseded run{'' if len(free) == 1 else 's'}, {sum(x.bytes for x in free) / 1e6:,.1f} MB"
    if not free:
        print(f"Every run of the budget {params.budget} is asked for, or shown by a table: there is nothing to delete.")
    elif delete:
        for folder in (folder for x in free for folder in x.folders):
            shutil.rmtree(folder)
        print(f"Deleted: {total}.")
    else:
        print(
            f"{total}. Nothing was deleted: `dgmbench clean --budget {params.budget} --yes` deletes what is listed "
            "above, and nothing else."
        )
    if kept:
        names = ", ".join(sorted({name for x in kept for name in x.shown}))
        print(
            f"{len(kept)} superseded run{' is' if len(kept) == 1 else 's are'} kept, with or without --yes, because "
            f"the tables of {names} still show {'it' if len(kept) == 1 else 'them'}: once `snakemake --cores all "
            f"--config budget={params.budget}` has made these tables anew, `clean` lists what they no longer show."
        )


def leftovers(params: Params, experiments: dict[str, Experiment], layout: Layout) -> list[Leftover]:
    """Every run under results/, data/runs/ and work/ of the budget that no experiment of it asks for."""
    plan = make_plan(params.model_copy(update={"experiments": "all"}), experiments)
    asked = {_meaning(run.document) for run in plan.runs.values()}
    shown = {name: _shown(layout.results / "provenance" / f"{name}.json") for name in plan.experiments}
    rooms = (layout.run, layout.blobs, layout.work)
    there = {path.name for room in rooms for path in room("any").parent.glob("*") if _IDENTITY.fullmatch(path.name)}
    found = []
    for identity in sorted(there - set(plan.runs)):
        document = _document(layout, identity)
        if document and _meaning(document) in asked:
            continue
        folders = tuple(room(identity) for room in rooms if room(identity).is_dir())
        size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
        by = tuple(name for name, runs in shown.items() if identity in runs)
        found.append(Leftover(identity, document, folders, size, by))
    return found


def _meaning(document: dict[str, Any]) -> str:
    return canonical_json({name: document.get(name) for name in MEANING})


def _document(layout: Layout, identity: str) -> dict[str, Any]:
    path = layout.run(identity) / "spec.yaml"
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def _shown(provenance: Path) -> set[str]:
    return set(read_json(provenance)["runs"]) if provenance.is_file() else set()


def _described(leftover: Leftover) -> tuple[str, ...]:
    return (leftover.id, *(str(leftover.document.get(name, "?")) for name in ("model", "dataset", "seed")))
