"""What is done again after an edit: exactly what the edit can change. Asserted by dry runs of a finished project."""

import ast
import json
import os

import pytest
import yaml

GMM = "src/dgmbench/models/mixtures/gmm.py"
EXACT = "src/dgmbench/estimators/exact_likelihood.py"


def test_nothing_is_done_twice(complete):
    assert complete.pending() == []


def test_experiments_that_need_the_same_run_share_it(complete):
    models = [json.loads(path.read_text())["run"]["model"] for path in complete.results("runs/*/manifest.json")]
    assert sorted(models) == ["gaussian", "gmm", "independent"]
    tables = {
        name: (complete.root / f"results/smoke/provenance/{name}.json").read_text() for name in ("moons", "shared")
    }
    runs = {name: json.loads(text)["runs"] for name, text in tables.items()}
    assert runs["shared"].keys() < runs["moons"].keys()


@pytest.mark.parametrize("path", [GMM, EXACT])
def test_comments_docstrings_and_formatting_change_nothing(complete, path):
    text = (complete.root / path).read_text()
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            node.body[0].value.value = "Other words."
    # Unparsing drops every comment and puts its own line breaks, quotes and parentheses everywhere.
    with complete.edit(path, text, f"# A comment.\n\n{ast.unparse(tree)}\n"):
        assert complete.pending() == []


def test_an_equation_of_a_model_concerns_its_runs(complete):
    with complete.edit(GMM, "0.5 * whitened.square_()", "0.50 * whitened.square_() * 1.0"):
        assert complete.pending() == [
            "assemble moons",
            "assemble shared",
            "evaluate gmm by exact_likelihood",
            "report",
            "train gmm on toys-two-moons",
        ]


def test_an_equation_of_an_estimator_concerns_its_evaluations_and_trains_nothing(complete):
    with complete.edit(EXACT, "float(per_example.mean())", "float(per_example.mean() + 0.0)"):
        assert complete.pending() == [
            "assemble digits",
            "assemble moons",
            "assemble shared",
            "evaluate gaussian by exact_likelihood",
            "evaluate gmm by exact_likelihood",
            "evaluate independent by exact_likelihood",
            "report",
        ]


def test_a_hyper_parameter_concerns_that_run(complete):
    path = complete.experiment_path("moons").relative_to(complete.root)
    with complete.edit(str(path), "iterations: 5", "iterations: 6"):
        assert complete.pending() == [
            "assemble moons",
            "evaluate gmm by exact_likelihood",
            "report",
            "train gmm on toys-two-moons",
        ]


def test_a_dataset_option_concerns_the_runs_on_it(complete):
    path = complete.experiment_path("moons").relative_to(complete.root)
    with complete.edit(str(path), "train: 300", "train: 301"):
        assert complete.pending() == [
            "assemble moons",
            "evaluate gaussian by exact_likelihood",
            "evaluate gaussian by samples",
            "evaluate gmm by exact_likelihood",
            "prepare toys-two-moons",
            "report",
            "train gaussian on toys-two-moons",
            "train gmm on toys-two-moons",
        ]


def test_the_code_of_a_loader_concerns_the_runs_on_its_datasets(complete):
    # A statement that changes nothing is a change of meaning all the same: the fingerprint does not prove theorems.
    with complete.edit("src/dgmbench/data/datasets/digits.py", "\ndef prepare(", "\nUNUSED = 1\n\n\ndef prepare("):
        assert complete.pending() == [
            "assemble digits",
            "evaluate independent by exact_likelihood",
            "prepare digits-binary",
            "report",
            "train independent on digits-binary",
        ]


def test_a_published_number_concerns_its_table(complete):
    path = complete.experiment_path("digits")
    plan = yaml.safe_load(path.read_text())
    plan["rows"]["independent"]["published"] = [
        {
            "evaluation": "test",
            "file": "anchors",
            "where": {"dataset": "bsds300-patches-63", "model": "gaussian"},
            "value": "value",
            "kind": "exact",
            "tolerance": 1.0,
            "protocol": "none",
        }
    ]
    with complete.edit(str(path.relative_to(complete.root)), path.read_text(), yaml.safe_dump(plan)):
        assert complete.pending() == ["assemble digits", "report"]


def test_time_stamps_of_large_files_change_nothing(complete):
    # What `dvc checkout` does: the same bytes with new time stamps.
    for path in (complete.root / "data").rglob("*"):
        os.utime(path)
    assert complete.pending() == []


def test_time_stamps_of_small_files_change_nothing(complete):
    # What `git checkout` of another branch and back does; the report's own outputs are the newest in any case.
    for path in complete.results("runs/*/*"):
        os.utime(path)
    assert complete.pending() == []


def test_data_that_are_gone_train_nothing_again(complete, tmp_path):
    clone = complete.copy(tmp_path / "clone")
    for path in (clone.root / "data" / "prepared").glob("*"):
        path.rename(tmp_path / path.name)
    assert clone.pending() == []
    path = clone.experiment_path("moons").relative_to(clone.root)
    with clone.edit(str(path), "iterations: 5", "iterations: 6"):
        assert clone.pending() == [
            "assemble moons",
            "evaluate gmm by exact_likelihood",
            "prepare toys-two-moons",
            "report",
            "train gmm on toys-two-moons",
        ]
