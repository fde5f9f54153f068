"""DVC versions what Snakemake computed: repro, exp run, push, a clone that is restored, with and without a remote."""

import json
from pathlib import Path

import pytest

EXACT = "src/dgmbench/estimators/exact_likelihood.py"
PAGE = "results/smoke/report/index.html"


def git(project, *arguments: str) -> str:
    return project.run("git", *arguments).stdout


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commit(project, message: str) -> None:
    git(project, "add", "--all")
    # The budget's small files, which are committed for budgets that are dear, and not the page made from them.
    git(project, "add", "--force", "results/smoke", ":!results/smoke/report")
    git(project, "commit", "--quiet", "--message", message)


@pytest.fixture(scope="module")
def versioned(complete, tmp_path_factory):
    """The finished project under git and DVC, its large files pushed to a remote in a folder."""
    folder = tmp_path_factory.mktemp("versioned")
    project = complete.copy(folder / "project")
    git(project, "init", "--quiet", "--initial-branch", "main")
    git(project, "config", "user.name", "Nobody")
    git(project, "config", "user.email", "nobody@localhost")
    (project.root / ".git" / "info" / "exclude").write_text("bin/\ncache/\n")
    reproduced = project.run("dvc", "repro")
    # DVC runs its stages, and each finds Snakemake with nothing to do: nothing persists twice, nothing is deleted.
    assert (reproduced.stdout + reproduced.stderr).count("Nothing to be done") == 3
    project.run("dvc", "remote", "add", "--default", "folder", str(folder / "remote"))
    commit(project, "Results")
    project.run("dvc", "push")
    return project


@pytest.fixture
def clone(versioned, tmp_path):
    return versioned.clone(tmp_path / "clone")


def test_a_clone_is_restored_and_nothing_is_to_be_done(versioned, clone):
    assert not (clone.root / PAGE).exists()
    said = clone.dgmbench("restore").stdout
    assert "Nothing is to be done: the results of the budget smoke are complete." in said
    assert "altered" in said
    assert "not here" not in said
    assert files(clone.root / "data") == files(versioned.root / "data")
    assert (clone.root / PAGE).read_bytes() == (versioned.root / PAGE).read_bytes()


def test_a_clone_without_a_remote_evaluates_and_trains_nothing_again(clone):
    clone.run("dvc", "remote", "remove", "folder")
    said = clone.dgmbench("restore").stdout
    assert "No DVC remote is configured" in said
    assert "3 of 3 models are not here: those runs keep their numbers" in said
    assert (
        "2 of 2 prepared datasets are not here: 'snakemake datasets --cores all --config budget=smoke' fetches" in said
    )
    assert "Nothing is to be done" in said
    assert clone.pending("datasets") == ["fetch digits", "prepare digits", "prepare toys-two-moons"]


def test_restore_does_not_vouch_for_tables_of_another_plan(clone):
    # The estimator's code moved on after the tables were made: its evaluations are missing, and the tables old.
    with clone.edit(EXACT, "float(per_example.mean())", "float(per_example.mean() + 0.0)"):
        said = clone.dgmbench("restore").stdout
    remain = said[said.index("6 jobs remain") :]
    assert [remain.count(word) for word in ("prepare", "train", "evaluate", "assemble", "report")] == [0, 0, 3, 2, 1]


def test_experiments_run_offline_and_are_compared(versioned):
    done = versioned.run("dvc", "exp", "run", "--set-param", "seeds=1", "--set-param", "experiments=[mixtures]")
    assert "Ran experiment(s)" in done.stdout
    # The same seeds by another name train nothing; what was assembled before stays in the report.
    assert "train" not in done.stdout
    metrics = json.loads(versioned.run("dvc", "metrics", "diff", "--all", "--json").stdout)
    moved = metrics["results/smoke/metrics.json"]
    for name in ("moons.gmm | test | log_likelihood", "mixtures.mixture dataset=digits | test | log_likelihood"):
        assert moved[name]["old"] == moved[name]["new"] is not None
    assert "!" not in versioned.run("dvc", "exp", "show", "--csv").stdout
