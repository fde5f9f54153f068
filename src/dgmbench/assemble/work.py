"""What training and evaluation took: lines for each row of a table, read from what its runs and evaluations left.

The first line of a row is its training, `job: training`; then comes one for each column, `job` being its name.

    seconds, steps = means over the seeds; seconds with the standard deviation over them, wall-clock
    seconds_per_step = sum of the seeds' seconds / sum of their steps, a step being what the model's training counts: an
                       EM iteration, an update
    peak_memory_mb = the largest of the first process of each seed, in the session that ended the training or evaluation
    exchanged_share = mean over recorded steps of the bytes that a process puts into collective operations over those
                      of the training data, where several processes train together

These are readings of a clock and of one machine, and of whatever else it did meanwhile: no estimator's measurement, for
which the tables of cost are; nor are they bits that repeat, so that they stand in no other table. Data are loaded,
parameters are started and checkpoints are written within them; evaluations load model and data. Where a training was
continued, `machine` is the one that ended it.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgmbench.assemble.entries import Entry
from dgmbench.assemble.ledger import Record
from dgmbench.assemble.outcomes import DONE, Archive
from dgmbench.format import MISSING, duration, number

COLUMNS = (
    *("experiment", "dataset", "row", "model", "job", "estimator", "n_seeds", "parameters", "steps"),
    *("seconds", "seconds_sd", "seconds_per_step", "peak_memory_mb"),
    *("processes", "threads", "exchanged_share", "device", "machine", "commit"),
)
SUFFIX = "-work"
TRAINING = "training"
_WORDS = ("experiment", "dataset", "row", "model", "job", "estimator", "device", "machine", "commit")
_COUNTS = ("n_seeds", "parameters", "processes", "threads")


def work_records(entries: Iterable[Entry], archive: Archive) -> list[Record]:
    """Lines for each row that has runs of its own of which one is trained, in the tables' order."""
    rows: dict[str, list[Entry]] = {}
    for entry in entries:
        if not entry.selected:
            rows.setdefault(entry.row, []).append(entry)
    return [line for its in rows.values() for line in _of_row(its, archive)]


def _of_row(entries: list[Entry], archive: Archive) -> list[Record]:
    named = {name: getattr(entries[0], name) for name in ("experiment", "dataset", "row", "model")}
    runs = dict.fromkeys(outcome.run for entry in entries for outcome in entry.outcomes)
    manifests = {run: found for run in runs if (found := archive.manifest(run)) and found["status"] == DONE}
    if not manifests:
        return []
    lines = [named | {"job": TRAINING, "estimator": ""} | _of_training(manifests, archive)]
    for column, entry in {entry.column: entry for entry in entries}.items():
        found = (archive.evaluation(outcome.run, outcome.evaluation) for outcome in entry.outcomes)
        records = [record for record in found if record and record["status"] == DONE]
        if records:
            lines.append(named | {"job": column, "estimator": entry.estimator} | _measured(records))
    return lines


def read(path: Path) -> list[Record]:
    """The lines of a table that was written: words as they are, numbers as numbers, what is empty as None."""
    with path.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    return [{name: _parsed(name, text) for name, text in line.items()} for line in lines]


def _parsed(name: str, text: str) -> Any:
    if name in _WORDS:
        return text
    return None if not text else int(text) if name in _COUNTS else float(text)


def printed(lines: Iterable[Record], labels: dict[str, str]) -> list[dict[str, str]]:
    """Heading -> text, of each line, as the page shows it to a person; the share exchanged where any row has one."""
    lines = list(lines)
    shared = any(line["exchanged_share"] is not None for line in lines)
    found = []
    for line in lines:
        sd = line["seconds_sd"]
        shown = {
            "row": labels.get(line["row"], line["row"]),
            "job": line["job"],
            "seeds": str(line["n_seeds"]),
            "parameters": _counted(line["parameters"]),
            "steps": _counted(line["steps"]),
            "time": duration(line["seconds"]) + (f" (sd {duration(sd)})" if sd is not None else ""),
            "seconds a step": number(line["seconds_per_step"]),
            "peak memory [MB]": f"{line['peak_memory_mb']:,.0f}",
            "processes x threads": f"{line['processes']} x {line['threads']}",
        }
        if shared:
            shown["exchanged / data, a step"] = number(line["exchanged_share"])
        found.append(shown | {"machine": ", ".join(word for word in (line["machine"], line["device"]) if word)})
    return found


def _counted(count: float | None) -> str:
    return MISSING if count is None else f"{count:,.0f}"


def _of_training(manifests: dict[str, dict[str, Any]], archive: Archive) -> Record:
    took = _measured(list(manifests.values()))
    steps = [manifest.get("steps") or 0 for manifest in manifests.values()]
    shares = [share for run in manifests if (share := _exchanged(run, archive)) is not None]
    return took | {
        "parameters": max(manifest.get("parameters") or 0 for manifest in manifests.values()),
        "steps": float(np.mean(steps)),
        "seconds_per_step": took["seconds"] / float(np.mean(steps)) if sum(steps) else None,
        "exchanged_share": float(np.mean(shares)) if shares else None,
    }


def _measured(records: list[dict[str, Any]]) -> Record:
    """What both kinds of job have; the rest is None."""
    measured = [record["measured"] for record in records]
    seconds = [m["seconds"] for m in measured]
    return {
        **dict.fromkeys(("parameters", "steps", "seconds_per_step", "exchanged_share")),
        "n_seeds": len(records),
        "seconds": float(np.mean(seconds)),
        "seconds_sd": float(np.std(seconds, ddof=1)) if len(seconds) > 1 else None,
        "peak_memory_mb": max(m["peak_memory_mb"] for m in measured),
        "processes": max(m.get("processes") or 1 for m in measured),
        "threads": max(m["threads"] for m in measured),
        **{name: _all(m.get(name) for m in measured) for name in ("device", "commit")},
        "machine": _all((m.get("machine") or {}).get("processor") for m in measured),
    }


def _exchanged(run: str, archive: Archive) -> float | None:
    path = archive.history_path(run)
    if not path.is_file() or path.stat().st_size <= 1:
        return None
    history = pd.read_csv(path)
    return float(history["exchanged_share"].mean()) if "exchanged_share" in history else None


def _all(values: Iterable[Any]) -> str:
    return "; ".join(sorted({str(value) for value in values if value}))
