"""Kills: a training, or Snakemake itself, is stopped at some moment and started again; the bits stay the same."""

import json
import os
import signal
from dataclasses import asdict
from pathlib import Path

import pytest

from dgmbench.data import catalogue
from dgmbench.data.fetch import fetch
from dgmbench.data.prepare import prepare
from dgmbench.estimators.registry import estimator
from dgmbench.evaluation import evaluate
from dgmbench.fingerprint import code_fingerprint
from dgmbench.layout import Layout
from dgmbench.models.registry import model_class, model_module
from dgmbench.progress import NoProgress
from dgmbench.runs import Evaluation, Run, evaluation_code
from dgmbench.training import checkpoint
from dgmbench.training.run import train

POINTS = {"train": 300, "validation": 100, "test": 100}

# A model with about 150 steps, its data, an estimator, and where it is stopped by what.
CASES = {
    "gmm": (
        {"components": 3, "iterations": 150, "tolerance": 0.0, "ridge": 1e-3},
        ("toys-two-moons", POINTS),
        ("exact_likelihood", {}),
        [(signal.SIGKILL, 1), (signal.SIGTERM, 70)],
    ),
    "rbm": (
        {"hidden": 4, "epochs": 12, "batch_size": 100, "chains": 20},
        ("digits-binary", {}),
        ("enumeration", {}),
        [(signal.SIGKILL, 20), (signal.SIGINT, 80)],
    ),
    "vae": (
        {"latent": 2, "hidden": [8], "epochs": 12, "batch_size": 100, "validate_every": 3},
        ("digits-binary", {}),
        ("importance_weighted", {"k": 2, "examples": 50}),
        [(signal.SIGKILL, 5), (signal.SIGKILL, 100)],
    ),
}


def planned(model: str, spec: dict, dataset: str, options: dict) -> Run:
    ref = catalogue.resolve(dataset, options)
    full = model_class(model).Spec(**spec).model_dump(mode="json")
    return Run(model, full, ref.name, ref.options, ref.identity, 0, code_fingerprint(model_module(model)))


def bring_data(run: Run, root: Path) -> None:
    if catalogue.entry(run.dataset).files:
        fetch(run.dataset, root / "data" / "raw", offline=True)
    ref = catalogue.resolve(run.dataset, run.dataset_options)
    prepare(ref, root / "data" / "raw", root / "data" / "prepared")


def numbers(run: Run, name: str, settings: dict, layout: Layout) -> list[dict]:
    full = estimator(name).Settings(**settings).model_dump(mode="json")
    evaluation = Evaluation(run.id, name, full, evaluation_code(name))
    result = evaluate(evaluation, layout, threads=1, progress=NoProgress())
    assert result["status"] == "done"
    return result["numbers"]


def half_written(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize("model", CASES)
def test_a_training_that_is_killed_ends_bit_identical(model, make_project, wait_until, tmp_path):
    spec, (dataset, options), (name, settings), stops = CASES[model]
    run = planned(model, spec, dataset, options)
    straight = Layout("smoke", tmp_path / "straight")
    bring_data(run, straight.root)
    train(run, straight, threads=1, checkpoint_seconds=1e9, progress=NoProgress())

    project = make_project({})
    (project.root / "data").mkdir()
    (straight.root / "data" / "prepared").rename(project.root / "data" / "prepared")
    (straight.root / "data" / "prepared").symlink_to(project.root / "data" / "prepared")
    layout = Layout("smoke", project.root)
    stored = layout.work(run.id) / "checkpoint.safetensors"
    command = ["dgmbench", "train", "--run", json.dumps(asdict(run)), "--checkpoint-seconds", "0"]
    for how, step in stops:
        with project.background(*command) as process:
            wait_until(lambda step=step: stored.is_file() and checkpoint.load(stored)["step"] >= step, process)
            process.send_signal(how)
            said = process.communicate()[0]
        assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
        assert not layout.manifest(run.id).is_file()
        assert checkpoint.load(stored)["step"] >= step
        if how != signal.SIGKILL:
            assert "Traceback" not in said
            assert "interrupted" in said
            assert half_written(project.root / "results") + half_written(project.root / "data") == []
    project.run(*command)

    for path in (straight.blobs(run.id) / "model.safetensors", straight.run(run.id) / "history.csv"):
        assert (project.root / path.relative_to(straight.root)).read_bytes() == path.read_bytes()
    assert numbers(run, name, settings, layout) == numbers(run, name, settings, straight)
    assert half_written(project.root) == []
    assert not layout.work(run.id).exists()


def test_snakemake_is_interrupted_and_killed_and_ends_with_the_same_numbers(
    complete, experiments, make_project, wait_until
):
    project = make_project({"moons": experiments["moons"]})
    command = ["snakemake", "--cores", "2"]

    with project.background(*command) as process:
        wait_until(lambda: project.results("datasets/*.json"), process)
        # Ctrl-C on a terminal reaches every process of the foreground group.
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate()[0]
    assert process.returncode != 0
    assert "Traceback" not in said
    assert "the same command continues" in said
    assert not project.results("report/*")

    with project.background(*command) as process:
        wait_until(lambda: project.results("runs/*/????????????.json"), process)
        os.killpg(process.pid, signal.SIGKILL)
    # Nobody could take away the lock of a process that was killed; Snakemake says to do this.
    project.run("snakemake", "--unlock")

    # A run that has an evaluation was finished, and Snakemake knew it.
    evaluated = {path.parent / "manifest.json" for path in project.results("runs/*/????????????.json")}
    kept = {path: os.stat(path).st_mtime_ns for path in evaluated}
    project.snakemake()
    assert {path: os.stat(path).st_mtime_ns for path in evaluated} == kept
    for name in ("moons.csv", "moons-paired.csv", "moons.md"):
        ours, theirs = (p.root / "results" / "smoke" / "tables" / name for p in (project, complete))
        assert ours.read_bytes() == theirs.read_bytes()
    ours, theirs = (json.loads((p.root / "results/smoke/metrics.json").read_text()) for p in (project, complete))
    assert ours["moons"] == theirs["moons"]
    assert half_written(project.root / "results") == []
    assert project.pending() == []
