"""Predicted cost of work to do, from what the manifests of earlier work measured."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgmbench.files import canonical_json
from dgmbench.runs import Evaluation, Run


@dataclass(frozen=True)
class Cost:
    """Seconds, memory in MB and bytes on disk; `basis` says what it was measured on."""

    seconds: float
    memory_mb: float
    bytes: float
    basis: str


@dataclass
class Costs:
    """Measured costs, by ever less specific keys: the same work, the same kind of work on the same data, any data."""

    measurements: dict[str, list[tuple[float, float, float]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def measured(cls, results: Path) -> "Costs":
        """Read every manifest and evaluation below results/<budget>/runs."""
        costs = cls()
        for folder in results.glob("*/runs/*"):
            manifest = _read(folder / "manifest.json")
            if manifest is None or manifest["status"] != "done":
                continue
            run = manifest["run"]
            costs._add(_run_keys(run), manifest)
            for path in folder.glob("*.json"):
                result = _read(path)
                if result is not None and "evaluation" in result and result["status"] == "done":
                    costs._add(_evaluation_keys(result["evaluation"], run), result)
        return costs

    def of_run(self, run: Run) -> Cost | None:
        return self._predict(_run_keys(vars(run)))

    def of_evaluation(self, evaluation: Evaluation, run: Run) -> Cost | None:
        return self._predict(_evaluation_keys(vars(evaluation), vars(run)))

    def _add(self, keys: Iterable[tuple[str, str]], document: dict[str, Any]) -> None:
        size = sum(file["bytes"] for file in document["files"].values())
        measured = document["measured"]
        for key, _ in keys:
            self.measurements[key].append((measured["seconds"], measured["peak_memory_mb"], size))

    def _predict(self, keys: Iterable[tuple[str, str]]) -> Cost | None:
        for key, basis in keys:
            if found := self.measurements.get(key):
                seconds, memory, size = (statistics.median(column) for column in zip(*found))
                return Cost(seconds, memory, size, basis)
        return None


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
        (f"evaluate {what}", "same estimator"),
    ]


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file, or None where it is missing or damaged: a prediction must not stop on an old file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
