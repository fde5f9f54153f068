"""Evaluate one run by one estimator: numbers with their kind and uncertainties, per-example values, arrays."""

import io
import math
import time
import traceback
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from dgmbench import files, machine
from dgmbench.config import checked
from dgmbench.data.prepare import open_dataset
from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone, UserError
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Workbench, evenly_spaced
from dgmbench.estimators.registry import estimator
from dgmbench.layout import FORMAT, Layout
from dgmbench.progress import Progress
from dgmbench.runs import Evaluation, evaluation_code
from dgmbench.training.run import (
    LOG_TAIL,
    certificate_sha256,
    describe_file,
    device_of,
    generator_for,
    load_model,
    use_threads,
)
from dgmbench.uncertainty import standard_error


def evaluate(evaluation: Evaluation, layout: Layout, *, threads: int, progress: Progress) -> dict[str, Any]:
    """Apply an estimator to a trained run; write its files and return what <evaluation>.json holds.

    Raises:
        UserError: the run, its data or the estimator's code are not what the evaluation was planned with.
    """
    module = estimator(evaluation.estimator)
    settings = checked(module.Settings, evaluation.settings, f"evaluation {evaluation.id}, settings")
    _check_code(evaluation)
    use_threads(threads)
    manifest_path = layout.manifest(evaluation.run)
    if not manifest_path.is_file():
        raise UserError(f"{manifest_path} is missing: train the run first (snakemake does).")
    manifest = files.read_json(manifest_path)
    started = time.monotonic()
    result: dict[str, Any] = {
        "format": FORMAT,
        "evaluation": {"id": evaluation.id, **asdict(evaluation)},
        "model_sha256": (manifest["files"].get("model") or {}).get("sha256"),
        "status": "done",
        "reason": None,
        "log_tail": [],
        "numbers": [],
        "files": {},
    }
    if manifest["status"] != "done":
        result |= {"status": "failed", "reason": manifest["reason"], "log_tail": manifest["log_tail"]}
    else:
        data = _open(manifest, layout)
        model = load_model(manifest, data, layout)
        data, rows = scored(data, settings)
        work = Workbench(generator_for(device_of(manifest), "evaluate", evaluation.id), progress)
        estimates = _estimate(module, model, data, settings, work, result)
        if estimates is not None:
            split = data.splits[settings.split] if module.METRICS else None  # pictures are of no split
            result["numbers"] = [_number(module, e, split) for e in estimates.numbers]
            result["files"] = _write_arrays(estimates, split, rows, evaluation, layout)
    result["measured"] = machine.measured(time.monotonic() - started, device_of(manifest), threads)
    files.write_json(layout.evaluation(evaluation.run, evaluation.id), result)
    return result


def _check_code(evaluation: Evaluation) -> None:
    now = evaluation_code(evaluation.estimator)
    if evaluation.code != now:
        raise UserError(
            f"evaluation {evaluation.id} was planned with code {evaluation.code} of estimator "
            f"'{evaluation.estimator}', and the code is now {now}: plan again (start snakemake again)."
        )


def _open(manifest: dict[str, Any], layout: Layout) -> Dataset:
    run = manifest["run"]
    data = open_dataset(layout.prepared / f"{run['dataset']}-{run['dataset_identity']}")
    if certificate_sha256(data) != manifest["certificate_sha256"]:
        raise UserError(
            f"run {run['id']} was trained on other arrays of '{run['dataset']}' than those now prepared: remove "
            f"{layout.manifest(run['id'])} to train it again."
        )
    return data


@dataclass(frozen=True)
class ScoredDataset(Dataset):
    """Data of which some rows are scored: `splits` has these alone, `train`, `validation` and `test` are whole."""

    whole: Dataset

    @property
    def train(self) -> Split:
        return self.whole.train

    @property
    def validation(self) -> Split:
        return self.whole.validation

    @property
    def test(self) -> Split:
        return self.whole.test


def scored(data: Dataset, settings: EstimatorSettings) -> tuple[Dataset, np.ndarray | None]:
    """The data with only those rows of the scored split that are asked for, and which these are; None for all.

    What the split is for beside being scored (to train, to choose a bandwidth on) it is as a whole.
    """
    split = data.splits.get(settings.split)
    if split is None or settings.examples is None or settings.examples >= len(split):
        return data, None
    rows = evenly_spaced(settings.examples, len(split))
    labels, groups = (None if part is None else np.asarray(part[rows]) for part in (split.labels, split.groups))
    thinned = replace(split, x=np.asarray(split.x[rows]), labels=labels, groups=groups)
    own = {field.name: getattr(data, field.name) for field in fields(data)}
    return ScoredDataset(**own | {"splits": {**data.splits, settings.split: thinned}}, whole=data), rows


def _estimate(
    module: Any, model: Any, data: Dataset, settings: EstimatorSettings, work: Workbench, result: dict[str, Any]
) -> Estimates | None:
    try:
        estimates = module.estimate(model, data, settings, work)
    except (UserError, OSError, MemoryError):
        raise
    except CannotBeDone as refusal:
        result |= {"status": "refused", "reason": str(refusal)}
        return None
    except Exception as error:  # an estimator that breaks is this cell's status, with its last lines
        lines = traceback.format_exc().strip().splitlines()[-LOG_TAIL:]
        result |= {"status": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0], "log_tail": lines}
        return None
    broken = [e for e in estimates.numbers if not np.isfinite([e.value, e.estimator_se or 0.0]).all()]
    if broken:
        values = ", ".join(f"{e.metric} = {e.value} with standard error {e.estimator_se}" for e in broken)
        result |= {"status": "failed", "reason": f"the estimator gave values that are not finite: {values}"}
        return None
    above_one = [e for e in estimates.numbers if data.values == "binary" and _is_log_mass(module, e) and e.value > 0]
    if above_one:
        values = ", ".join(f"{e.metric} = {e.value:.4g} nats" for e in above_one)
        reason = (
            f"no mass function gives binary examples more than probability 1: {values}. Its log Z is far too low: the "
            "chains that estimate it do not reach where the data are."
        )
        result |= {"status": "failed", "reason": reason}
        return None
    return estimates


def _is_log_mass(module: Any, estimate: Estimate) -> bool:
    """Whether a number is a mean log-probability of examples, or a lower bound on one."""
    metric = module.METRICS[estimate.metric]
    named = estimate.metric.endswith("log_likelihood") or estimate.metric == "bound"
    return named and metric.unit == "nats" and metric.kind in ("exact", "lower-bound", "estimate")


def _number(module: Any, estimate: Estimate, split: Split) -> dict[str, Any]:
    metric = module.METRICS[estimate.metric]
    test_se, over, n_groups = None, None, None
    if estimate.per_example is not None:
        groups = None if split.groups is None else np.asarray(split.groups[: len(estimate.per_example)])
        test_se, n_groups = standard_error(estimate.per_example, groups)
        over = "examples" if groups is None else "groups"
    return {
        "metric": estimate.metric,
        "unit": metric.unit,
        "kind": metric.kind,
        "better": metric.better,
        "value": float(estimate.value),
        "test_se": test_se,
        "test_se_over": over,
        "n_examples": None if estimate.per_example is None else len(estimate.per_example),
        "n_groups": n_groups,
        "estimator_se": None if estimate.estimator_se is None else float(estimate.estimator_se),
        "converged": estimate.converged,
        "evidence": {name: _spoken(value) for name, value in estimate.evidence.items()},
    }


def _spoken(value: Any) -> Any:
    """Evidence as JSON holds it: a number that is not finite becomes the word for it."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _write_arrays(
    estimates: Estimates, split: Split | None, rows: np.ndarray | None, evaluation: Evaluation, layout: Layout
) -> dict[str, Any]:
    written: dict[str, Any] = {}
    columns = {e.metric: e.per_example for e in estimates.numbers if e.per_example is not None}
    if columns:
        n = max(map(len, columns.values()))
        index = np.arange(n, dtype=np.int64) if rows is None else rows[:n]
        frame = pd.DataFrame({"index": index, **columns})
        if split.groups is not None:
            frame["group"] = np.asarray(split.groups[:n])
        path = layout.blobs(evaluation.run) / f"{evaluation.id}.parquet"
        with files.atomic_path(path) as temporary:
            frame.to_parquet(temporary, index=False)
        written["per_example"] = describe_file(path, layout)
    if estimates.arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **estimates.arrays)
        path = layout.blobs(evaluation.run) / f"{evaluation.id}.npz"
        files.write_bytes(path, buffer.getvalue())
        written["arrays"] = describe_file(path, layout)
    return written
