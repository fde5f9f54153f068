"""Where every number comes from: what `dgmbench why` prints and the report shows beside a cell."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgmbench.assemble.entries import Entry
from dgmbench.assemble.outcomes import Archive, Outcome
from dgmbench.errors import UserError, nearest
from dgmbench.files import read_json
from dgmbench.format import duration, names, number, spread
from dgmbench.runs import PICTURE, Plan
from dgmbench.schemas import Experiment

FORMAT = 1


def provenance(
    entries: Iterable[Entry],
    plan: Plan,
    name: str,
    experiment: Experiment,
    archive: Archive,
    pictures: dict[str, dict[str, Any]] | None = None,
    made_from: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Everything behind one experiment's cells, keyed "row | column | metric".

    Runs, evaluations and datasets are written once and named by the cells that use them.

    Args:
        pictures: ending of a picture's name -> `drawn_from`, evaluation -> checksum of the arrays, and `kept`, a note
            where it was drawn before and stands.
        made_from: cells that are made from other cells, which stand under `inputs`.
    """
    entries = list(entries)
    used_runs = {outcome.run for entry in entries for outcome in entry.outcomes}
    keys = {plan.runs[run].dataset_key for run in used_runs}
    return {
        "format": FORMAT,
        "experiment": name,
        "budget": plan.budget,
        "title": experiment.title,
        "cells": {entry.key: _cell(entry) for entry in entries} | (made_from or {}),
        "runs": {run: _run(plan, archive, run) for run in sorted(used_runs)},
        "evaluations": {
            outcome.evaluation: _evaluation(plan, archive, outcome) for entry in entries for outcome in entry.outcomes
        },
        "datasets": {key: archive.certificate(key) for key in sorted(keys)},
        "pictures": pictures or {},
    }


def _cell(entry: Entry) -> dict[str, Any]:
    combined = entry.combined
    return {
        **{k: getattr(entry, k) for k in ("experiment", "row", "row_name", "label", "column", "metric", "unit")},
        **{k: getattr(entry, k) for k in ("kind", "better", "description", "dataset", "model", "variant")},
        **{k: getattr(entry, k) for k in ("parameters", "settings", "control", "protocol", "differs", "estimator")},
        **{k: getattr(combined, k) for k in ("obtained", "test_se", "estimator_se", "seed_sd", "converged")},
        "n_seeds": len(combined.done),
        **{k: getattr(entry, k) for k in ("status", "verdict", "reason", "bits_per_pixel", "bits_convention")},
        "published": asdict(entry.published) if entry.published else None,
        "selected_from": list(entry.selected),
        "seeds": [
            {
                "run": outcome.run,
                "evaluation": outcome.evaluation,
                "status": outcome.status,
                "reason": outcome.reason,
                **{k: v for k, v in outcome.number.items() if k not in ("metric", "unit", "kind", "better")},
            }
            for outcome in entry.outcomes
        ],
    }


def _run(plan: Plan, archive: Archive, run: str) -> dict[str, Any]:
    manifest = archive.manifest(run) or {}
    known = ("status", "reason", "log_tail", "steps", "parameters", "certificate_sha256", "files", "measured")
    identity = {"id": run, **asdict(plan.runs[run]), "dataset_key": plan.runs[run].dataset_key}
    return {"run": identity} | {k: manifest.get(k) for k in known}


def _evaluation(plan: Plan, archive: Archive, outcome: Outcome) -> dict[str, Any]:
    record = archive.evaluation(outcome.run, outcome.evaluation) or {}
    return {"evaluation": asdict(plan.evaluations[outcome.evaluation])} | {
        k: record.get(k) for k in ("status", "reason", "log_tail", "model_sha256", "files", "measured")
    }


def find(results_root: Path, budget: str, experiment: str, row: str, column: str) -> dict[str, Any]:
    """The provenance of every metric of one cell of a table.

    Args:
        row: a row's identity (`gmm components=64`) or label.
        column: a column (`test`, `ais temperatures=100`), or one metric of it (`test | log_likelihood`).

    Raises:
        UserError: nothing was assembled, or there is no such experiment, row or column; says the nearest.
    """
    folder = Path(results_root) / budget / "provenance"
    path = folder / f"{experiment}.json"
    if not path.is_file():
        known = [p.stem for p in folder.glob("*.json")]
        others = sorted(p.parts[-3] for p in Path(results_root).glob(f"*/provenance/{experiment}.json"))
        if others:
            raise UserError(
                f"experiment '{experiment}' has been assembled under the budget {names(others)}, not under '{budget}': "
                f"add --budget {others[0]}."
            )
        raise UserError(
            f"no experiment '{experiment}' has been assembled under the budget '{budget}': "
            f"{nearest(experiment, known)} ('dgmbench assemble {experiment} "
            f"--budget {budget}' assembles one that is planned.)"
        )
    whole = read_json(path)
    cells = whole["cells"].values()
    rows = [cell for cell in cells if row in (cell["row"], cell["label"])]
    if not rows:
        raise UserError(f"experiment {experiment} has no row '{row}': {nearest(row, {c['row'] for c in cells})}")
    if len({cell["row"] for cell in rows}) > 1:
        raise UserError(
            f"several rows are labelled '{row}': write one of {', '.join(sorted({c['row'] for c in rows}))}."
        )
    column, _, metric = (part.strip() for part in column.partition("|"))
    chosen = [c for c in rows if c["column"] == column and metric in ("", c["metric"])]
    if not chosen:
        known = {c["column"] for c in rows} if not metric else {f"{c['column']} | {c['metric']}" for c in rows}
        asked = f"{column} | {metric}" if metric else column
        raise UserError(f"row '{row}' of experiment {experiment} has no column '{asked}': {nearest(asked, known)}")
    runs = {run for cell in chosen for run in used_by(cell)[0]}
    evaluations = {evaluation for cell in chosen for evaluation in used_by(cell)[1]}
    datasets = {whole["runs"][run]["run"]["dataset_key"] for run in runs}
    return {
        **{k: whole[k] for k in ("experiment", "budget", "title")},
        "cells": {f"{c['row']} | {c['column']} | {c['metric']}": c for c in chosen},
        "runs": {run: whole["runs"][run] for run in sorted(runs)},
        "evaluations": {e: whole["evaluations"][e] for e in sorted(evaluations)},
        "datasets": {key: whole["datasets"][key] for key in sorted(datasets)},
    }


def read(results: Path, experiment: str) -> dict[str, Any]:
    """The provenance of an experiment that has been assembled, in the results of one budget."""
    return read_json(assembled_file(results, f"provenance/{experiment}.json"))


def assembled_file(results: Path, name: str) -> Path:
    """results/<budget>/<name>, the name being <folder>/<experiment>.<ending>.

    Raises:
        UserError: the experiment has not been assembled.
    """
    path = results / name
    if not path.is_file():
        raise UserError(
            f"{path} is missing: run `dgmbench assemble {path.stem} --budget {results.name}` first (snakemake does)."
        )
    return path


def used_by(cell: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The runs and the evaluations of a cell, or of those that it is made from."""
    inputs = cell.get("inputs", ())
    return (
        [*(seed["run"] for seed in cell["seeds"]), *(run for i in inputs for run in i["runs"])],
        [*(seed["evaluation"] for seed in cell["seeds"]), *(e for i in inputs for e in i["evaluations"])],
    )


def sampled(shown: dict[str, Any]) -> bool:
    """Whether an experiment asks for samples of any row: without, its picture of samples has nothing to show."""
    return any(cell["metric"] == PICTURE for cell in shown["cells"].values())


def describe(found: dict[str, Any]) -> str:
    """What `find` gave, as plain text for a terminal."""
    lines = [f"{found['title']} ({found['experiment']}, budget {found['budget']})"]
    for cell in found["cells"].values():
        lines += ["", *_describe_cell(cell)]
    for run in found["runs"].values():
        lines += ["", *_describe_run(run)]
    for evaluation in found["evaluations"].values():
        lines += ["", *_describe_evaluation(evaluation)]
    for key, certificate in found["datasets"].items():
        lines += ["", f"dataset {key}", *(f"  {line}" for line in _describe_certificate(certificate))]
    return "\n".join(lines) + "\n"


def _describe_cell(cell: dict[str, Any]) -> Iterator[str]:
    uncertainties = (cell["test_se"], cell["estimator_se"], cell["seed_sd"])
    yield f"{cell['label']}: {cell['metric'] or 'picture'} [{cell['unit']}], {cell['kind']}"
    if cell["description"]:
        yield f"  meaning          {cell['description']}"
    yield f"  obtained         {number(cell['obtained'], uncertainties)}  (in full: {cell['obtained']})"
    if (bits := cell.get("bits_per_pixel")) is not None:
        yield f"  bits per pixel   {bits:.4f}: {cell['bits_convention']}"
    yield f"  over test        ± {spread(cell['test_se'])}"
    yield f"  over estimator   ± {spread(cell['estimator_se'])}"
    of_seeds = f"{cell['n_seeds']} of {len(cell['seeds'])} seeds" if cell["seeds"] else f"{cell['n_seeds']} of each row"
    yield f"  over seeds       sd {spread(cell['seed_sd'])}, {of_seeds}"
    yield f"  status           {cell['status']}" + (f": {cell['reason']}" if cell["reason"] else "")
    yield f"  verdict          {cell['verdict']}"
    if cell["protocol"]:
        yield f"  protocol         {cell['protocol']}"
    if published := cell["published"]:
        yield f"  published        {published['value']:g} ({published['kind']}), tolerance {published['tolerance']:g}"
        yield f"    source         {published['source']}"
        yield f"    protocol       {published['protocol']}"
    if cell["differs"]:
        yield f"  differs          {cell['differs']}"
    if cell["selected_from"]:
        yield f"  chosen among     {'; '.join(cell['selected_from'])}"
    for made_from in cell.get("inputs", ()):
        obtained = number(made_from["obtained"], [made_from["uncertainty"]])
        yield f"  of {made_from['row']}: {obtained}, published {made_from['published']:g} ({made_from['verdict']})"
    for index, seed in enumerate(cell["seeds"]):
        said = seed.get("value") if seed["status"] == "done" else f"{seed['status']}: {seed['reason']}"
        yield f"  seed {index}           {said}  run {seed['run']}, evaluation {seed['evaluation']}"
        if seed.get("n_examples"):
            groups = f" in {seed['n_groups']} groups" if seed.get("n_groups") else ""
            yield f"    scored         {seed['n_examples']} examples{groups}"
        for name, value in (seed.get("evidence") or {}).items():
            yield f"    {name:<14} {value}"


def _describe_run(record: dict[str, Any]) -> Iterator[str]:
    run = record["run"]
    yield f"run {run['id']}: model {run['model']}, seed {run['seed']}"
    yield f"  spec             {_inline(_set(run['spec']))}"
    yield f"  data             {run['dataset_key']}, certificate {record['certificate_sha256'] or 'unknown'}"
    yield f"  code             {run['code']}"
    if record["steps"] is not None:
        yield f"  trained          {record['steps']} steps, {record['parameters']} parameters"
    if model := (record["files"] or {}).get("model"):
        yield f"  model            {model['path']}, sha256 {model['sha256']}"
    yield from _describe_measured(record["measured"])
    for line in record["log_tail"] or [] if record["status"] != "done" else []:
        yield f"  log              {line}"


def _describe_evaluation(record: dict[str, Any]) -> Iterator[str]:
    evaluation = record["evaluation"]
    yield f"evaluation of run {evaluation['run']}: estimator {evaluation['estimator']}, code {evaluation['code']}"
    yield f"  settings         {_inline(_set(evaluation['settings']))}"
    if of_model := record.get("model_sha256"):
        yield f"  of the model     sha256 {of_model}"
    yield from _describe_measured(record["measured"])
    for name, file in (record["files"] or {}).items():
        yield f"  {name:<16} {file['path']}, sha256 {file['sha256']}"


def _describe_measured(measured: dict[str, Any] | None) -> Iterator[str]:
    if not measured:
        return
    yield (
        f"  measured         {duration(measured.get('seconds'))}, {_threads(measured.get('threads'))} on "
        f"{measured.get('device')}, peak {measured.get('peak_memory_mb')} MB"
    )
    yield f"  commit           {measured.get('commit') or 'unknown'}"
    yield f"  machine          {_inline(measured.get('machine') or {})}"
    yield f"  versions         {_inline(measured.get('versions') or {})}"


def _describe_certificate(certificate: dict[str, Any] | None) -> list[str]:
    if certificate is None:
        return ["certificate is not among the results"]
    lines = []
    for name, split in (certificate.get("splits") or {}).items():
        lines.append(f"{name:<16} {_inline(split) if isinstance(split, dict) else split}")
    return lines


def _set(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is null: the model or the estimator decides these where it runs, and None is not what it took."""
    return {name: value for name, value in values.items() if value is not None}


def _inline(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"


def _threads(count: int | None) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
