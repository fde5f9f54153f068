"""A made-up results tree: two experiments, planned by the real planner over stand-in models and estimators."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict

from dgmbench import files, plan_checks, runs
from dgmbench.assemble import entries as entries_module
from dgmbench.data.catalogue import Entry
from dgmbench.data.transforms import Step
from dgmbench.estimators.base import Metric
from dgmbench.params import Params
from dgmbench.schemas import Experiment

BUDGET = "demo"
LL = "log_likelihood"
METRICS = {
    "exact_likelihood": {LL: Metric("nats", "exact", "higher", "mean log p(x) of the test split")},
    "enumeration": {LL: Metric("nats", "exact", "higher", "mean log p(x), Z by enumeration")},
    "ais": {LL: Metric("nats", "estimate", "higher", "mean log p(x), log Z by annealed importance sampling")},
    "importance_weighted": {LL: Metric("nats", "lower-bound", "higher", "importance-weighted bound")},
    "parzen": {"parzen_log_likelihood": Metric("nats", "parzen", "higher", "log-likelihood of a window on samples")},
    "samples": {},
}
SAMPLES = Path(__file__).parent / "samples"
ESTIMATORS = yaml.safe_load((SAMPLES / "estimators-check.yaml").read_text())
PATCHES = yaml.safe_load((SAMPLES / "patches-check.yaml").read_text())
PUBLISHED = "dataset,model,nll,sd,source\ndigits,rbm,19.4,0.2,somewhere\npatches,gmm,153.7,,\npatches,deep,156.2,,\n"


SPLITS = ("train", "validation", "test")
SPACE = (Step(dequantize=256), Step(scale=256), Step(remove_mean=True))


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    split: str = "test"


class StandIn:
    Spec = Anything
    accepts = frozenset({"binary", "real"})


def entry(name: str) -> Entry:
    words = {key: f"the {key} of {name}" for key in ("title", "description", "licence", "citation")}
    return Entry(name=name, version="1", homepage="https://example.org", loader="toys", **words)


def stand_ins(monkeypatch) -> None:
    """Replace the registries of models, datasets and estimators, so that plans need none of them."""
    fake = {name: SimpleNamespace(METRICS=m, Settings=Anything, REQUIRES=object) for name, m in METRICS.items()}
    shapes = {"digits": (8, 8), "patches": (63,), "unused": (2,)}
    ref = runs.catalogue.DatasetRef
    monkeypatch.setattr(runs, "model_class", lambda name: StandIn)
    monkeypatch.setattr(runs, "model_module", lambda name: name)
    monkeypatch.setattr(runs, "estimator", fake.__getitem__)
    monkeypatch.setattr(runs, "estimator_module", lambda name: name)
    monkeypatch.setattr(runs, "code_fingerprint", lambda *modules: "c0de")
    monkeypatch.setattr(entries_module, "estimator", fake.__getitem__)
    monkeypatch.setattr(plan_checks, "estimator", fake.__getitem__)
    monkeypatch.setattr(runs.catalogue, "resolve", lambda name, options=None: ref(name, options or {}, "1dent"))
    describe = lambda ref: SimpleNamespace(values="binary", shape=shapes[ref.name])  # noqa: E731
    monkeypatch.setattr(runs.catalogue, "describe", describe)
    monkeypatch.setattr(runs.catalogue, "space", lambda name: SPACE if name == "patches" else ())
    monkeypatch.setattr(runs.catalogue, "splits", lambda ref: SPLITS)
    known = {name: entry(name) for name in shapes}
    monkeypatch.setattr(runs.catalogue, "entries", lambda: known)
    monkeypatch.setattr(runs.catalogue, "entry", known.__getitem__)


def experiments() -> dict[str, Experiment]:
    return {
        "estimators-check": Experiment.model_validate(ESTIMATORS),
        "patches-check": Experiment.model_validate(PATCHES),
    }


def params(**changes) -> Params:
    return Params(budget=BUDGET, **changes)


MEASURED = {
    "seconds": 12.5,
    "peak_memory_mb": 310.0,
    "device": "cpu",
    "threads": 1,
    "machine": {"processor": "A processor", "cores": 2},
    "commit": "0123456789ab",
    "versions": {"torch": "2.13.0", "dgmbench": "0.1.0"},
}


def run_fields(run) -> dict:
    return {"id": run.id, "model": run.model, "spec": run.spec, "dataset": run.dataset, "seed": run.seed}


def write_run(results, run, status="done", reason=None, tail=()) -> None:
    folder = results / BUDGET / "runs" / run.id
    files.write_json(
        folder / "manifest.json",
        {
            "format": 1,
            "run": run_fields(run),
            "status": status,
            "reason": reason,
            "log_tail": list(tail),
            "steps": 2000,
            "parameters": 4242,
            "certificate_sha256": "ab" * 32,
            "files": {},
            "measured": MEASURED,
        },
    )
    iterative = run.model in ("rbm", "vae", "gmm")
    with (folder / "history.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["step", "objective_nats", "seconds"] if iterative else ["step"])
        for step in range(0, 2000, 20) if iterative else ():
            start = {"rbm": -40.0, "vae": -38.0, "gmm": 100.0}[run.model]
            noise = math.sin(step * (1 + run.seed)) * 0.5
            writer.writerow([step, start * math.exp(-step / 400) - 20 + noise, step / 160])


def number(metric, value, *, test_se=0.2, estimator_se=0.0, converged=None, groups=None, evidence=None) -> dict:
    return {
        "metric": metric,
        "unit": "nats",
        "kind": "exact",
        "better": "higher",
        "value": value,
        "test_se": test_se,
        "test_se_over": "groups" if groups else "examples",
        "n_examples": 360,
        "n_groups": groups,
        "estimator_se": estimator_se,
        "converged": converged,
        "evidence": evidence or {},
    }


def write_evaluation(
    results, evaluation, numbers=(), status="done", reason=None, per_example=None, arrays=None
) -> None:
    """One evaluation's file; per_example is a frame and arrays a dict, both written below data/ beside results/."""
    written = {}
    for name, content, suffix in (("per_example", per_example, "parquet"), ("arrays", arrays, "npz")):
        if content is None:
            continue
        path = f"data/runs/{BUDGET}/{evaluation.run}/{evaluation.id}.{suffix}"
        target = results.parent / path
        target.parent.mkdir(parents=True, exist_ok=True)
        content.to_parquet(target, index=False) if suffix == "parquet" else np.savez(target, **content)
        written[name] = {"path": path, "sha256": files.sha256_file(target), "bytes": target.stat().st_size}
    files.write_json(
        results / BUDGET / "runs" / evaluation.run / f"{evaluation.id}.json",
        {
            "format": 1,
            "evaluation": {"id": evaluation.id, "run": evaluation.run, "estimator": evaluation.estimator},
            "status": status,
            "reason": reason,
            "log_tail": [],
            "numbers": list(numbers),
            "files": written,
            "measured": MEASURED,
        },
    )


def write_certificate(results, key, shape) -> None:
    split = {"rows": 1000, "dimension": math.prod(shape), "dtype": "|u1", "sha256": "cd" * 32, "mean": 0.31}
    split |= {"min": 0.0, "max": 1.0, "distinct_rows": 998}
    files.write_json(
        results / BUDGET / "datasets" / f"{key}.json",
        {
            "format": 1,
            "name": key.split("-")[0],
            "identity": key.split("-")[1],
            "options": {},
            "values": "binary",
            "shape": list(shape),
            "binarize": [],
            "version": "1",
            "licence": "CC BY 4.0",
            "citation": "Somebody, Some Data",
            "notes": {"binarization": "threshold 0.5"},
            "splits": {name: dict(split, rows=rows) for name, rows in zip(SPLITS, (1078, 359, 360))},
            "shared_rows": {"train-validation": 1, "train-test": 0, "validation-test": 0},
            "shared_groups": {},
        },
    )


def write_everything(results, plan) -> None:
    """Plausible numbers for every run and evaluation of the plan; one VAE seed diverges, AIS may not converge."""
    (results / "published").mkdir(parents=True)
    (results / "published" / "table.csv").write_text(PUBLISHED)
    write_certificate(results, "digits-1dent", (8, 8))
    write_certificate(results, "patches-1dent", (63,))
    for run in plan.runs.values():
        if run.model == "vae" and run.seed == 1:
            write_run(results, run, "failed", "diverged at step 40: loss_nats = nan", ["step 39", "step 40: nan"])
        else:
            write_run(results, run)
    for evaluation in plan.evaluations.values():
        write_evaluation(results, evaluation, **_plausible(plan.runs[evaluation.run], evaluation))


def _plausible(run, evaluation) -> dict:
    settings = evaluation.settings
    generator = np.random.default_rng(run.seed + 17)
    wobble = 0.1 * generator.standard_normal()
    if run.model == "vae" and run.seed == 1:
        return {"status": "failed", "reason": "diverged at step 40: loss_nats = nan"}
    if evaluation.estimator == "samples":
        if run.dataset == "patches":
            walk = generator.standard_normal((64, 64)).cumsum(1) * 0.05
            return {"arrays": {"samples": (walk - walk.mean(1, keepdims=True))[:, :63]}}
        return {"arrays": {"samples": (generator.random((64, 64)) < 0.3).astype(np.float32)}}
    if evaluation.estimator == "parzen":
        value = {"independent": -36.0, "rbm": -14.1, "vae": -12.6, "training_set": -11.9}[run.model]
        evidence = {"bandwidth": 0.22, "samples": 10000}
        return {"numbers": [number("parzen_log_likelihood", value + wobble, test_se=0.3, evidence=evidence)]}
    if evaluation.estimator == "importance_weighted":
        return {"numbers": [number(LL, -22.5 + math.log10(settings["k"]) * 0.9, estimator_se=0.02, converged=True)]}
    if evaluation.estimator == "ais":
        size = 3 / math.sqrt(settings["temperatures"] * settings["chains"]) * 4
        value = -19.6 + wobble + size * generator.standard_normal() * 0.6 + 20 / settings["temperatures"]
        evidence = {"effective_sample_size": round(settings["chains"] * 0.7, 1), "log_z": 31.25}
        done = settings["temperatures"] > 100
        return {"numbers": [number(LL, value, estimator_se=size, converged=done, evidence=evidence)]}
    centre = {"independent": -27.0, "rbm": -19.6, "gaussian": 96.9, "gmm": 100.0}[run.model]
    if run.dataset == "patches":
        centre = {"independent": 60.0}.get(run.model, centre)
        centre += 12 * math.log2(run.spec.get("components", 1)) ** 0.8
        centre += {"train": 0.8, "validation": 0.2}.get(settings.get("split"), 0.0)
    values = centre + wobble + 3 * np.random.default_rng(5).standard_normal(360)
    frame = pd.DataFrame({"index": np.arange(360), LL: values + generator.standard_normal(360)})
    groups = None
    if run.dataset == "patches":
        frame["group"] = np.arange(360) % 20
        groups = 20
    value = float(frame[LL].mean())
    return {"numbers": [number(LL, value, test_se=0.17, groups=groups)], "per_example": frame}
