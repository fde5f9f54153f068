"""What the Snakefile asks of the package, and the files beside it that must agree with others."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from dgmbench import workflow
from dgmbench.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """A workflow in a folder of its own, with the environment put back afterwards."""
    for name in ("workflow", "params.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/published").symlink_to(ROOT / "results/published")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workflow.os, "environ", {})
    return lambda **config: workflow.Workflow({"budget": "smoke", **config})


def test_jobs_learn_from_the_environment_what_was_asked(bench):
    bench(seeds=2, experiments=["patch-likelihood"], mirror="/mirror", checkpoint_seconds=0)
    told = {name: value for name, value in workflow.os.environ.items() if name.startswith("DGMBENCH_")}
    assert told == {
        "DGMBENCH_BUDGET": "smoke",
        "DGMBENCH_SEEDS": "2",
        "DGMBENCH_ONLY": "patch-likelihood",
        "DGMBENCH_CHECKPOINT_SECONDS": "0.0",
        "DGMBENCH_OFFLINE": "0",
        "DGMBENCH_MIRROR": "/mirror",
    }


def test_jobs_take_nothing_from_the_shell_that_the_plan_was_made_without(bench):
    workflow.os.environ.update({"DGMBENCH_SEEDS": "7", "DGMBENCH_ONLY": "x", "DGMBENCH_OFFLINE": "1"})
    bench()
    assert not {"DGMBENCH_SEEDS", "DGMBENCH_ONLY"} & workflow.os.environ.keys()
    assert workflow.os.environ["DGMBENCH_OFFLINE"] == "1", "offline is asked for by the environment too"


def test_rows_of_several_processes_are_launched_by_torchrun(bench):
    plan = bench(experiments=["patch-likelihood"])
    launches = {(plan.plan.runs[run].model, plan.launch(run)) for run in plan.plan.runs}
    assert ("deep_gmm", "torchrun --standalone --nproc-per-node 2 --no-python -- ") in launches
    assert {launch for model, launch in launches if model != "deep_gmm"} == {""}


def test_nothing_starts_on_a_full_disk(bench, monkeypatch):
    monkeypatch.setattr(workflow.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1e9}))
    with pytest.raises(UserError, match=r"only 1\.0 GB of disk is free, and at least 2 GB"):
        bench()


def test_the_conda_environment_holds_the_versions_of_the_constraints():
    lines = (ROOT / "constraints.txt").read_text().lower().splitlines()
    pinned = yaml.safe_load((ROOT / "workflow/envs/dgmbench.yaml").read_text())["dependencies"][-1]["pip"]
    assert pinned
    assert not [pin for pin in pinned if pin.lower() not in lines]


def test_make_help_lists_every_target():
    targets = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    command = ["make", "--no-print-directory", "help"]  # make test calls it from within another make
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[:2] for line in said.splitlines()] == [["make", name] for name in targets.split()[1:]]


def test_few_steps_and_long_ones_need_none():
    dag = SimpleNamespace(needrun_jobs=lambda: iter(range(workflow.FEW_STEPS + 1)))
    assert workflow.short_steps("demo", dag)
    assert not workflow.short_steps("laptop", dag)
    assert not workflow.short_steps("demo", SimpleNamespace(needrun_jobs=lambda: iter(range(workflow.FEW_STEPS))))
