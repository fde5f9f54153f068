"""Predicted cost of work to do: what the manifests of earlier work measured, scaled by the work to do.

Work is counted in multiplications, leading term only: for training, examples x `Model.passes` x
`Model.operations`; for an evaluation, `scorings` x `Model.operations`.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dgmbench.data import catalogue
from dgmbench.errors import UserError
from dgmbench.estimators.base import EstimatorSettings
from dgmbench.estimators.registry import estimator
from dgmbench.files import canonical_json
from dgmbench.models.base import ModelSpec
from dgmbench.models.registry import model_class
from dgmbench.runs import Evaluation, Run

START_SECONDS = 2.0  # an interpreter and its libraries, before any work
SPLITS = ("train", "validation", "test")
OTHER_DATA = ("same model", "same estimator")
LEAST_RATE = 5e9  # multiplications per second that one core does in any job large enough to matter


@dataclass(frozen=True)
class Cost:
    """Seconds, memory in MB and bytes on disk; `basis` says what it was measured on."""

    seconds: float
    memory_mb: float
    bytes: float
    basis: str


@dataclass(frozen=True)
class Measurement:
    """One finished job: its work in multiplications (None where the data's size is not known) and its cost."""

    work: float | None
    seconds: float
    memory_mb: float
    bytes: float


@dataclass
class Costs:
    """Measured costs, by ever less specific keys: the same spec on the same data, the same data, any data."""

    rows: Callable[[dict[str, Any]], dict[str, int] | None]
    measurements: dict[str, list[Measurement]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def measured(cls, results: Path, prepared: Path = Path("data/prepared")) -> "Costs":
        """Read every manifest and evaluation below results/<budget>/runs."""
        costs = cls(lambda run: split_rows(run, results, prepared))
        for folder in results.glob("*/runs/*"):
            manifest = _read(folder / "manifest.json")
            if manifest is None or manifest.get("status") != "done":
                continue
            run = manifest["run"]
            if not _still_read(_spec, run):
                continue
            costs._add(_run_keys(run), manifest, costs._run_work(run))
            for path in folder.glob("*.json"):
                result = _read(path)
                if result is None or "evaluation" not in result or result["status"] != "done":
                    continue
                evaluation = result["evaluation"]
                if _still_read(_settings, evaluation):
                    costs._add(_evaluation_keys(evaluation, run), result, costs._evaluation_work(evaluation, run))
        return costs

    def of_run(self, run: Run) -> Cost | None:
        return self._predict(_run_keys(vars(run)), self._run_work(vars(run)))

    def of_evaluation(self, evaluation: Evaluation, run: Run) -> Cost | None:
        work = self._evaluation_work(vars(evaluation), vars(run))
        return self._predict(_evaluation_keys(vars(evaluation), vars(run)), work)

    def _run_work(self, run: dict[str, Any]) -> float | None:
        rows = self.rows(run)
        if rows is None:
            return None
        model, spec = model_class(run["model"]), _spec(run)
        return rows["train"] * model.passes(spec) * model.operations(spec, rows["dimension"])

    def _evaluation_work(self, evaluation: dict[str, Any], run: dict[str, Any]) -> float | None:
        rows = self.rows(run)
        if rows is None:
            return None
        module, model = estimator(evaluation["estimator"]), model_class(run["model"])
        settings = _settings(evaluation)
        examples = min(rows[settings.split], settings.examples or rows[settings.split])
        count = getattr(module, "scorings", lambda _settings, n: float(n))(settings, examples)
        return count * model.operations(_spec(run), rows["dimension"])

    def _add(self, keys: Iterable[tuple[str, str]], document: dict[str, Any], work: float | None) -> None:
        size, measured = sum(file["bytes"] for file in document["files"].values()), document["measured"]
        for key, _ in keys:
            self.measurements[key].append(Measurement(work, measured["seconds"], measured["peak_memory_mb"], size))

    def _predict(self, keys: Iterable[tuple[str, str]], work: float | None) -> Cost | None:
        for key, basis in keys:
            found = self.measurements.get(key)
            if not found:
                continue
            # The job nearest in work; a much smaller one is all overhead, and says nothing about the rate.
            nearest = min(found, key=lambda m: _distance(work, m.work))
            if not (work and nearest.work) and basis in OTHER_DATA:
                return None  # a job on other data says nothing unless both sizes are known
            if not work or not nearest.work or 0.5 < work / nearest.work < 2:
                return Cost(nearest.seconds + START_SECONDS, nearest.memory_mb, nearest.bytes, basis)
            rate = max(nearest.work / max(nearest.seconds, 1e-3), LEAST_RATE)
            return Cost(work / rate + START_SECONDS, nearest.memory_mb, nearest.bytes, f"{basis}, scaled")
        return None


def split_rows(run: dict[str, Any], results: Path, prepared: Path) -> dict[str, int] | None:
    """Rows of each split and the dimension, from the dataset's certificate or its options; None if neither says."""
    key = f"{run['dataset']}-{run['dataset_identity']}"
    for path in (prepared / key / "certificate.json", *sorted(results.glob(f"*/datasets/{key}.json"))):
        told = _read(path)
        if told is not None:
            splits = told["splits"]
            return {name: facts["rows"] for name, facts in splits.items()} | {
                "dimension": next(iter(splits.values()))["dimension"]
            }
    options = run["dataset_options"]
    if run["dataset"] not in catalogue.entries() or not all(isinstance(options.get(split), int) for split in SPLITS):
        return None
    shape = catalogue.describe(catalogue.resolve(run["dataset"], options)).shape
    return {split: options[split] for split in SPLITS} | {"dimension": math.prod(shape)}


def _distance(work: float | None, measured: float | None) -> float:
    return abs(math.log(work / measured)) if work and measured else math.inf


def _run_keys(run: dict[str, Any]) -> list[tuple[str, str]]:
    data, options = run["dataset"], canonical_json(run["dataset_options"])
    return [
        (f"train {run['model']} {canonical_json(run['spec'])} {data} {options}", "same spec"),
        (f"train {run['model']} {data} {options}", "same data"),
        (f"train {run['model']}", "same model"),
    ]


def _evaluation_keys(evaluation: dict[str, Any], run: dict[str, Any]) -> list[tuple[str, str]]:
    what, settings = evaluation["estimator"], canonical_json(evaluation["settings"])
    return [
        (f"evaluate {what} {settings} {run['model']} {canonical_json(run['spec'])} {run['dataset']}", "same spec"),
        (f"evaluate {what} {run['model']} {run['dataset']}", "same data"),
        (f"evaluate {what} {run['model']}", "same model"),
        (f"evaluate {what}", "same estimator"),
    ]


def _spec(run: dict[str, Any]) -> ModelSpec:
    return model_class(run["model"]).Spec.model_validate(run["spec"])


def _settings(evaluation: dict[str, Any]) -> EstimatorSettings:
    return estimator(evaluation["estimator"]).Settings.model_validate(evaluation["settings"])


def _still_read(reader: Callable[[dict[str, Any]], BaseModel], job: dict[str, Any]) -> bool:
    """Whether this version's code can read the spec or settings of an older job: its work is counted by that code."""
    try:
        reader(job)
    except (UserError, ValidationError):
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file, or None where it is missing or damaged: a prediction must not stop on an old file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
