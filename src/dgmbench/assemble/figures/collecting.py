"""Gather what figures are drawn from: cells, training histories and samples of one experiment."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgmbench.assemble.earlier import MAIN, SAMPLES, Earlier, kept_note, stands
from dgmbench.assemble.entries import Entry
from dgmbench.assemble.figures import samples, training
from dgmbench.assemble.figures.base import FigureData, Source, save, style
from dgmbench.assemble.figures.registry import figure
from dgmbench.assemble.ledger import COLUMNS, records
from dgmbench.assemble.outcomes import DONE, Archive, Outcome
from dgmbench.config import checked
from dgmbench.data import catalogue
from dgmbench.files import sha256_file
from dgmbench.runs import PICTURE, Plan
from dgmbench.schemas import FigurePlan

TRAINING = "-training"


def draw_all(
    data: FigureData, plan: FigurePlan, folder: Path, experiment: str, earlier: Earlier | None = None
) -> tuple[list[Path], dict[str, dict[str, Any]]]:
    """Write the main figure, the samples and the training curves, each as SVG and PDF.

    A picture that was drawn `earlier`, of arrays that are not on this machine any more, stands.

    Returns:
        the paths of all three; and of the first two which arrays they are drawn from (evaluation -> checksum), with a
        note of what a picture that stands does not show.

    Raises:
        UserError: there is no such figure, or it has no such option.
    """
    main = figure(plan.name)
    options = checked(main.Options, plan.options, f"experiment {experiment}, figure.options")
    drawing = {
        MAIN: lambda: main.draw(data, options),
        SAMPLES: lambda: samples.draw(data, samples.Options()),
        TRAINING: lambda: training.draw(data, training.Options()),
    }
    written, pictures = [], {}
    with style():
        for suffix, draw in drawing.items():
            sources, drawn = data.sources.get(suffix, {}), None if earlier is None else earlier.pictures.get(suffix)
            if drawn is not None and stands(drawn, sources):
                written += _kept(folder / f"{experiment}{suffix}.svg")
                pictures[suffix] = {"drawn_from": drawn, "kept": kept_note(drawn, sources, data.labels)}
                continue
            written += save(draw(), folder, f"{experiment}{suffix}")
            if suffix in data.sources:
                read = {identity: source.checksum for identity, source in sorted(sources.items()) if source.here}
                pictures[suffix] = {"drawn_from": read, "kept": ""}
    return written, pictures


def _kept(picture: Path) -> list[Path]:
    """The picture, and the PDF of it where there is one; that of another picture, as after a pull, is removed."""
    beside = picture.with_suffix(".pdf")
    if not beside.is_file():
        return [picture]
    if sha256_file(picture).encode() in beside.read_bytes():
        return [picture, beside]
    beside.unlink()
    return [picture]


def gather(
    entries: Iterable[Entry],
    plan: Plan,
    archive: Archive,
    title: str,
    labels: dict[str, str],
    main: str,
) -> FigureData:
    """Everything that the figures of one experiment need; blobs that are not here are named as missing.

    Beside numbers only the arrays that the figure `main` draws are loaded.
    """
    entries = list(entries)
    found: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    sources: dict[str, dict[str, Source]] = {MAIN: {}, SAMPLES: {}}
    for entry in entries:
        if entry.metric != PICTURE or not entry.outcomes or entry.selected:
            continue
        array = _samples(entry, archive)
        sources[SAMPLES] |= _source(entry, archive)
        if isinstance(array, str):
            missing[entry.row] = array
        else:
            found[entry.row] = array
            shapes[entry.row] = _shape(plan.runs[entry.outcomes[0].run].dataset_key, plan, archive)
    drawn = figure(main).Options.arrays_of
    first: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        if entry.metric != PICTURE and entry.outcomes and not entry.selected and entry.estimator in drawn:
            first.setdefault((entry.estimator, entry.row), entry)
    for entry in first.values():
        sources[MAIN] |= _source(entry, archive)
    arrays, missing_arrays = _arrays_of_numbers(first, archive)
    return FigureData(
        title,
        _frame(entries),
        _histories(entries, archive),
        found,
        shapes,
        missing,
        labels,
        arrays=arrays,
        missing_arrays=missing_arrays,
        sources=sources,
    )


def _frame(entries: list[Entry]) -> pd.DataFrame:
    numbers = [entry for entry in entries if entry.metric != PICTURE]
    frame = pd.DataFrame.from_records(records(numbers), columns=list(COLUMNS))
    for name in ("row_name", "label", "evaluation_name", "estimator", "better", "parameters", "settings", "differs"):
        frame[name] = pd.Series([getattr(entry, name) for entry in numbers], dtype=object)
    for name in ("obtained", "test_se", "estimator_se", "seed_sd", "published", "published_spread"):
        frame[name] = frame[name].astype(float)
    frame["variant"] = frame["variant"].astype(str)
    return frame


def _histories(entries: list[Entry], archive: Archive) -> dict[str, list[pd.DataFrame]]:
    histories: dict[str, list[pd.DataFrame]] = {}
    for row, runs in {e.row: tuple(o.run for o in e.outcomes) for e in entries if not e.selected}.items():
        paths = [archive.history_path(run) for run in runs]
        frames = [pd.read_csv(path) for path in paths if path.is_file() and path.stat().st_size > 1]
        if frames := [frame for frame in frames if "step" in frame]:
            histories[row] = frames
    return histories


def _arrays_of_numbers(
    first: dict[tuple[str, str], Entry], archive: Archive
) -> tuple[dict[str, dict[str, dict[str, np.ndarray]]], dict[str, dict[str, str]]]:
    """Estimator -> row -> the arrays that it wrote beside its numbers, or why they are not here."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    missing: dict[str, dict[str, str]] = {}
    for (estimator, row), entry in first.items():
        arrays = _arrays(entry, archive, "arrays")
        if isinstance(arrays, str):
            missing.setdefault(estimator, {})[row] = arrays
        else:
            found.setdefault(estimator, {})[row] = arrays
    return found, missing


def _samples(entry: Entry, archive: Archive) -> np.ndarray | str:
    """(n, d) samples of the first seed that came out, or why there are none."""
    arrays = _arrays(entry, archive, "samples")
    return arrays if isinstance(arrays, str) else arrays.get("samples", "the estimator wrote no samples")


def _first(entry: Entry) -> Outcome | None:
    return next((outcome for outcome in entry.outcomes if outcome.status == DONE), None)


def _source(entry: Entry, archive: Archive) -> dict[str, Source]:
    """Evaluation -> the arrays that a picture draws of a cell; nothing where none were written."""
    first = _first(entry)
    if first is None:
        return {}
    record = archive.evaluation(first.run, first.evaluation)
    path = archive.blob(record, "arrays")
    if path is None:
        return {}
    return {first.evaluation: Source(entry.row, record["files"]["arrays"].get("sha256"), path.is_file())}


def _arrays(entry: Entry, archive: Archive, what: str) -> dict[str, np.ndarray] | str:
    """The arrays of the first seed that came out, or why there are none; `what` is the word for them there."""
    first = _first(entry)
    if first is None:
        return f"{entry.status}: {entry.reason}"
    path = archive.blob(archive.evaluation(first.run, first.evaluation), "arrays")
    if path is None:
        return f"the estimator wrote no {what}"
    if not path.is_file():
        return f"the {what} are not on this machine (dvc pull fetches them)"
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays}


def _shape(dataset_key: str, plan: Plan, archive: Archive) -> tuple[int, ...]:
    certificate = archive.certificate(dataset_key)
    if certificate and "shape" in certificate:
        return tuple(certificate["shape"])
    return tuple(catalogue.describe(plan.datasets[dataset_key]).shape)
