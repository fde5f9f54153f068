"""What is done again after an edit: exactly what the edit can change. Asserted by dry runs of a finished project."""

import ast
import json
import os
import shutil
from contextlib import ExitStack

GMM = "src/dgmbench/models/mixtures/gmm.py"
EXACT = "src/dgmbench/estimators/exact_likelihood.py"
LOADER = "src/dgmbench/data/datasets/digits.py"
MOONS = "workflow/experiments/tiny/moons.yaml"


def test_nothing_is_done_twice_and_experiments_share_a_run(complete):
    assert complete.pending() == []
    runs = [json.loads(path.read_text())["run"] for path in complete.results("runs/*/manifest.json")]
    assert sorted((run["model"], run["dataset"]) for run in runs) == [
        ("gaussian", "toys-two-moons"),
        ("gmm", "digits"),
        ("gmm", "toys-two-moons"),
    ]
    shown = {path.stem: set(json.loads(path.read_text())["runs"]) for path in complete.results("provenance/*.json")}
    shared = shown["moons"] & shown["mixtures"]
    assert [run["dataset"] for run in runs if run["id"] in shared] == ["toys-two-moons"]


def test_evaluations_say_which_model_they_are_of(complete):
    manifests = [json.loads(path.read_text()) for path in complete.results("runs/*/manifest.json")]
    models = {manifest["run"]["id"]: manifest["files"]["model"]["sha256"] for manifest in manifests}
    evaluations = [
        json.loads(path.read_text()) for path in complete.results("runs/*/*.json") if path.name != "manifest.json"
    ]
    assert evaluations
    assert all(each["model_sha256"] == models[each["evaluation"]["run"]] for each in evaluations)


def test_comments_docstrings_and_formatting_change_nothing(complete):
    with ExitStack() as edits:
        for path in (GMM, EXACT, LOADER):
            text = (complete.root / path).read_text()
            tree = ast.parse(text)
            for node in ast.walk(tree):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                    node.body[0].value.value = "Other words."
            # Unparsing drops every comment and puts its own line breaks, quotes and parentheses everywhere.
            edits.enter_context(complete.edit(path, text, f"# A comment.\n\n{ast.unparse(tree)}\n"))
        assert complete.pending() == []


def test_an_equation_of_a_model_concerns_its_runs(complete):
    with complete.edit(GMM, "(counts / counts.sum()).log()", "(counts / counts.sum() * 1.0).log()"):
        assert complete.pending() == [
            "assemble mixtures",
            "assemble moons",
            "evaluate gmm on digits by exact_likelihood",
            "evaluate gmm on toys-two-moons by exact_likelihood",
            "report",
            "train gmm on digits",
            "train gmm on toys-two-moons",
        ]


def test_an_equation_of_an_estimator_concerns_its_evaluations_and_trains_nothing(complete):
    with complete.edit(EXACT, "float(per_example.mean())", "float(per_example.mean() + 0.0)"):
        assert complete.pending() == [
            "assemble mixtures",
            "assemble moons",
            "evaluate gaussian on toys-two-moons by exact_likelihood",
            "evaluate gmm on digits by exact_likelihood",
            "evaluate gmm on toys-two-moons by exact_likelihood",
            "report",
        ]


def test_a_hyper_parameter_concerns_that_run(complete):
    with complete.edit(MOONS, "iterations: 5", "iterations: 6"):
        assert complete.pending() == [
            "assemble moons",
            "evaluate gmm on toys-two-moons by exact_likelihood",
            "report",
            "train gmm on toys-two-moons",
        ]


def test_a_dataset_option_concerns_the_runs_on_it(complete):
    with complete.edit(MOONS, "train: 300", "train: 301"):
        assert complete.pending() == [
            "assemble moons",
            "evaluate gaussian on toys-two-moons by exact_likelihood",
            "evaluate gaussian on toys-two-moons by samples",
            "evaluate gmm on toys-two-moons by exact_likelihood",
            "prepare toys-two-moons",
            "report",
            "train gaussian on toys-two-moons",
            "train gmm on toys-two-moons",
        ]


def test_the_code_of_a_loader_concerns_the_runs_on_its_datasets(complete):
    # A statement that changes nothing is a change of meaning all the same: a fingerprint proves no theorems.
    with complete.edit(LOADER, "\ndef prepare(", "\nUNUSED = 1\n\n\ndef prepare("):
        assert complete.pending() == [
            "assemble mixtures",
            "evaluate gmm on digits by exact_likelihood",
            "prepare digits",
            "report",
            "train gmm on digits",
        ]


def test_time_stamps_change_nothing(complete):
    # What `dvc checkout` does to large files and `git checkout` to small ones: the same bytes, new time stamps.
    for path in [*(complete.root / "data").rglob("*"), *complete.results("runs/*/*")]:
        os.utime(path)
    assert complete.pending() == []


def test_another_budget_prepares_its_certificates_and_trains_its_runs(complete):
    # The dataset is prepared already: only its certificate must be shown beside this budget's results too.
    with complete.edit(MOONS, "  smoke:", "  demo:"):
        jobs = complete.pending("--config", "budget=demo", 'experiments=["moons"]')
    shutil.rmtree(complete.root / "results" / "demo")
    assert jobs == [
        "assemble moons",
        "evaluate gaussian on toys-two-moons by exact_likelihood",
        "evaluate gaussian on toys-two-moons by samples",
        "evaluate gmm on toys-two-moons by exact_likelihood",
        "prepare toys-two-moons",
        "report",
        "train gaussian on toys-two-moons",
        "train gmm on toys-two-moons",
    ]


def test_data_that_are_gone_train_nothing_again(complete, tmp_path):
    clone = complete.copy(tmp_path / "clone")
    (clone.root / "data" / "prepared").rename(tmp_path / "prepared")
    with clone.edit(MOONS, "iterations: 5", "iterations: 6"):
        assert clone.pending() == [
            "assemble moons",
            "evaluate gmm on toys-two-moons by exact_likelihood",
            "prepare toys-two-moons",
            "report",
            "train gmm on toys-two-moons",
        ]
