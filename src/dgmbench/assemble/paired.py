"""Paired comparisons: the difference of two models on the same test examples, whose noise mostly cancels.

With values a_i and b_i of two models on example i and d_i = a_i - b_i, the difference is mean(d_i) and its
standard error sd(d_i) / sqrt(n). Where examples come in groups (patches of one image), whole groups are
drawn again, 2,000 times with a fixed seed, and the standard error and the 95% interval are the resamples'.
That error is one over examples: what training with another seed would change, and the error of a log Z that all
examples share, are not in it. Where both sides were trained by several seeds, a and b of them, which begin from
numbers that have nothing in common, the error over seeds stands beside it: sqrt(s_a^2 / a + s_b^2 / b), with s the
standard deviations over seeds (Welch 1938).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgmbench.assemble.earlier import Earlier
from dgmbench.assemble.entries import Entry
from dgmbench.assemble.ledger import Record
from dgmbench.assemble.outcomes import DONE, Archive, NotHere
from dgmbench.uncertainty import bootstrap_means, group_sums

COLUMNS = (
    *("experiment", "dataset", "row", "reference", "column", "metric", "unit", "kind", "better"),
    *("difference", "se", "se_over", "low", "high", "n_examples", "n_groups", "n_seeds", "seed_se", "reason"),
)
NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Difference:
    """A mean paired difference, its standard error and 95% interval, in the metric's unit."""

    difference: float
    se: float
    low: float
    high: float
    n_examples: int
    n_groups: int | None


def paired_difference(values: np.ndarray, reference: np.ndarray, groups: np.ndarray | None = None) -> Difference:
    """Mean of values - reference with its uncertainty over examples, or over groups.

    Args:
        values, reference: (n,) values on the same examples.
        groups: (n,) group of each example, or None.

    Raises:
        ValueError: fewer than two examples or groups.
    """
    d = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    mean = float(d.mean())
    if groups is None:
        if len(d) < 2:
            raise ValueError("a standard error needs at least two examples")
        se = float(d.std(ddof=1) / np.sqrt(len(d)))
        return Difference(mean, se, mean - NORMAL_95 * se, mean + NORMAL_95 * se, len(d), None)
    sums, counts = group_sums(d, groups)
    if len(sums) < 2:
        raise ValueError("a standard error over groups needs at least two groups")
    means = bootstrap_means(sums, counts)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(mean, float(means.std(ddof=1)), float(low), float(high), len(d), len(sums))


def paired_records(
    entries: Iterable[Entry],
    paired_with: str | Mapping[str, Any],
    by: str,
    archive: Archive,
    earlier: Earlier | None = None,
) -> list[Record]:
    """One row for each row, column and metric of the evaluation `by`, against its reference's same cell.

    Only metrics that are means over examples, and with values of grids only rows that have such a number of their own.
    What of these cannot be compared keeps its place, with the reason in the row; beside a difference the reason says
    which side has not converged. Where values of single examples are not on this machine, the difference that was
    computed from them `earlier` stands.

    Args:
        paired_with: a row's name, or values of a grid, as in an experiment's file.
    """
    cells = [entry for entry in entries if entry.evaluation_name == by and entry.metric]
    means = _means_over_examples(cells)
    found = []
    for entry in cells:
        if entry.row_name == paired_with or not entry.outcomes or entry.metric not in means:
            continue
        references = _references(entry, cells, paired_with)
        if not isinstance(paired_with, str) and (not references or references[0] is entry):
            continue  # the reference itself, or a row that has no number of its own at these values
        record = dict.fromkeys(COLUMNS) | {
            **{k: getattr(entry, k) for k in ("experiment", "dataset", "row", "column", "metric")},
            **{k: getattr(entry, k) for k in ("unit", "better")},
            # Of two bounds the difference bounds nothing.
            "kind": "estimate" if entry.kind in ("lower-bound", "upper-bound") else entry.kind,
            "reference": references[0].row if len(references) == 1 else paired_with,
            "reason": "",
        }
        if len(references) == 1:
            record |= _compared(entry, references[0], archive)
            if earlier is not None and isinstance(record["reason"], NotHere):
                record |= earlier.difference(entry, references[0]) or {}
            if record["difference"] is not None:
                record["seed_se"] = _over_seeds(entry, references[0])
        elif references:
            record["reason"] = f"the reference row has {len(references)} values of {entry.metric} beside this one"
        else:
            record["reason"] = f"the reference row has no {entry.metric} in this column, or none at this row's values"
        found.append(record)
    return found


def _references(entry: Entry, cells: Iterable[Entry], paired_with: str | Mapping[str, Any]) -> list[Entry]:
    """Numbers of the same data, column and metric: the named row's, or those of the entry's own row at these values.

    Of a named row that has several, those that agree with the entry in the values that both grids have.
    """
    same = [c for c in cells if all(getattr(c, n) == getattr(entry, n) for n in ("dataset", "column", "metric"))]
    if not isinstance(paired_with, str):
        wanted = {**entry.parameters, **paired_with}
        return [other for other in same if other.row_name == entry.row_name and other.parameters == wanted]
    named = [other for other in same if other.row_name == paired_with]
    if len(named) < 2:
        return named
    shared = entry.parameters.keys() & named[0].parameters.keys()
    return [other for other in named if all(other.parameters[n] == entry.parameters[n] for n in shared)]


def _means_over_examples(cells: Iterable[Entry]) -> set[str]:
    """Metrics that are means over examples, as their numbers say, and those that have no number yet."""
    numbers: dict[str, list[Record]] = {entry.metric: [] for entry in cells}
    for entry in cells:
        numbers[entry.metric] += [outcome.number for outcome in entry.combined.done]
    return {metric for metric, found in numbers.items() if not found or any(n.get("test_se_over") for n in found)}


def _compared(entry: Entry, reference: Entry, archive: Archive) -> Record:
    ours, theirs = _per_example(entry, archive), _per_example(reference, archive)
    for who, side in ((entry.row, ours), (reference.row, theirs)):
        if isinstance(side, str):
            return {"reason": type(side)(f"{who}: {side}")}
    if not ours.index.equals(theirs.index):
        return {"reason": "the two rows were scored on different examples"}
    groups = ours["group"].to_numpy() if "group" in ours else None
    try:
        result = paired_difference(ours["value"].to_numpy(), theirs["value"].to_numpy(), groups)
    except ValueError as error:
        return {"reason": str(error)}
    return {
        **{k: getattr(result, k) for k in ("difference", "se", "low", "high", "n_examples", "n_groups")},
        "se_over": "examples" if groups is None else "groups",
        "n_seeds": len(entry.combined.done),
        "reason": _unconverged(entry, reference),
    }


def _over_seeds(*sides: Entry) -> float | None:
    """Standard error over seeds of the difference of two means of theirs; None where one side has a single seed."""
    if any(side.combined.seed_sd is None for side in sides):
        return None
    return math.sqrt(sum(side.combined.seed_sd**2 / len(side.combined.done) for side in sides))


def _unconverged(entry: Entry, reference: Entry) -> str:
    """`neither side has converged`, where the estimates that a difference is taken of have not."""
    sides = [side for side in (entry, reference) if side.combined.converged is False]
    return (
        "neither side has converged" if len(sides) == 2 else "".join(f"{side.row} has not converged" for side in sides)
    )


def _per_example(entry: Entry, archive: Archive) -> pd.DataFrame | str:
    """Values of each example, averaged over the seeds that came out, by index; or why there are none."""
    if entry.combined.obtained is None:
        return f"{entry.status}: {entry.reason}" if entry.reason else entry.status
    frames = []
    for outcome in entry.outcomes:
        if outcome.status != DONE:
            continue
        path = archive.blob(archive.evaluation(outcome.run, outcome.evaluation), "per_example")
        if path is None:
            return "the estimator gives no values of single examples"
        if not path.is_file():
            return NotHere(f"{_shown(path)} is not on this machine (dvc pull fetches it)")
        frame = pd.read_parquet(path)
        if entry.metric not in frame:
            return f"the estimator gives no '{entry.metric}' of single examples"
        frames.append(frame.set_index("index").sort_index())
    if any(not frame.index.equals(frames[0].index) for frame in frames):
        return "the seeds were scored on different examples"
    mean = pd.DataFrame({"value": np.mean([frame[entry.metric].to_numpy() for frame in frames], axis=0)})
    mean.index = frames[0].index
    if "group" in frames[0]:
        mean["group"] = frames[0]["group"]
    return mean


def _shown(path: Path) -> str:
    return "/".join(path.parts[-4:])
