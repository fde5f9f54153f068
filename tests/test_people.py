"""What the command line shows people, and the skeleton of a new model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dgmbench import people, starting
from dgmbench.errors import UserError
from dgmbench.params import Params

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _in_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_lists_name_everything_found_by_folder(capsys):
    from dgmbench.config import load_experiments
    from dgmbench.data.catalogue import entries
    from dgmbench.estimators.registry import estimator_modules
    from dgmbench.models.registry import model_modules

    people.show_lists("all", verify=False)
    shown = capsys.readouterr().out
    for name in [*model_modules(), *estimator_modules(), *entries(), *load_experiments()]:
        assert name in shown
    assert "Density" in shown
    assert "lower-bound" in shown


def test_plan_counts_runs_and_says_what_it_cannot_predict(capsys, monkeypatch, tmp_path):
    from dgmbench.config import load_experiments
    from dgmbench.runs import make_plan

    params = Params(budget="smoke")
    plan = make_plan(params, load_experiments())
    for name in ("workflow", "params.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/published").symlink_to(ROOT / "results/published")
    monkeypatch.chdir(tmp_path)
    people.show_plan(params)
    shown = capsys.readouterr().out
    assert f"{len(plan.runs)} runs (0 complete)" in shown
    jobs = len(plan.runs) + len(plan.evaluations)
    assert f"Predicted: unknown; {jobs} jobs have no measurement to predict from" in shown
    assert "0.0 s" not in shown


def test_plan_names_experiment_row_and_grid_of_every_run():
    from dgmbench.config import load_experiments
    from dgmbench.runs import make_plan

    plan = make_plan(Params(budget="smoke"), load_experiments())
    names = people._rows_of_runs(plan)
    assert names.keys() == plan.runs.keys()
    told = {name for each in names.values() for name in each.split("; ")}
    assert {"patch-likelihood: gmm components=1", "patch-likelihood: gmm components=3"} <= told
    assert told == {f"{cell.experiment}: {cell.row}" for cells in plan.cells.values() for cell in cells}


@pytest.mark.parametrize("name", ["9lives", "My-Model", "class", "rbm"])
def test_new_model_refuses_a_name_that_cannot_be(name):
    with pytest.raises(UserError, match=r"choose another name|cannot name a model"):
        starting.new_model(name, "mine")


def test_new_model_passes_the_contract_tests(tmp_path):
    """The skeleton is written into a copy of the package, found there by folder, and held to every contract."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "tests" / "contract", tmp_path / "tests" / "contract")
    path = os.pathsep.join(map(str, (tmp_path / "src", tmp_path / "tests")))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    made = subprocess.run([sys.executable, "-m", "dgmbench.cli", "new", "model", "my_model"], **run)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "src/dgmbench/models/mine/my_model.py").is_file()
    command = ["pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "tests", "-k", "my_model"]
    checked = subprocess.run([sys.executable, "-m", *command], **run)
    assert checked.returncode == 0, checked.stdout
    assert " passed" in checked.stdout
