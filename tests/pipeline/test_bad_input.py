"""What a person can get wrong, through the real command line: one message, no traceback, before any training."""

import json
import resource
import signal
import sys
from dataclasses import asdict

import pytest

from dgmbench import cli
from dgmbench.data import catalogue
from dgmbench.fingerprint import code_fingerprint
from dgmbench.models.registry import model_class, model_module
from dgmbench.runs import Run

MOONS = "workflow/experiments/tiny/moons.yaml"
GMM = "model: gmm"
PUBLISHED = "{evaluation: test, file: nowhere, where: {}, value: nll, kind: exact, tolerance: 1, protocol: as printed}"


@pytest.fixture
def command_line(monkeypatch, capsys):
    """`dgmbench` in a project's folder, in this process: its status and what it said."""

    def run(project, *arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(project.root)
        monkeypatch.setattr(sys, "argv", ["dgmbench", *arguments])
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert said.err.startswith("dgmbench: ")
        return ended.value.code, said.err

    return run


def refused(done) -> str:
    """The message of a command that must have been refused."""
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert "Traceback" not in said
    return said


# Name: command, file to edit, old text, new text, what the message must say.
MISTAKES = {
    "params key": ("snakemake", "params.yaml", "seeds:", "sedes:", ["sedes: unknown key", "Write 'seeds: null'."]),
    "params value": ("dgmbench", "params.yaml", "budget: smoke", "budget: smokey", ["budget", "'smoke'", "'smokey'"]),
    "experiment": ("dgmbench", "params.yaml", "experiments: all", "experiments: [moon]", ["did you mean 'moons'?"]),
    "not YAML": ("dgmbench", MOONS, "rows:", "rows: [", [f"{MOONS} (line", "is not YAML"]),
    "experiment key": ("dgmbench", MOONS, "question:", "questoin:", ["questoin: unknown key", "'question'"]),
    "model": ("snakemake", MOONS, GMM, "model: gmn", ["there is no model 'gmn'", "did you mean 'gmm'?"]),
    "dataset": ("dgmbench", MOONS, "toys-two-moons", "toys-two-moon", ["did you mean 'toys-two-moons'?"]),
    "dataset option": ("dgmbench", MOONS, "train: 300", "trian: 300", ["no option 'trian'", "did you mean 'train'?"]),
    "spec key": ("dgmbench", MOONS, "components:", "component:", ["row gmm, spec", "Write 'components: 2'."]),
    "spec value": ("snakemake", MOONS, "components: 2", "components: 0", ["row gmm, spec", "components", "(given: 0)"]),
    "estimator": ("dgmbench", MOONS, "exact_likelihood", "exact", ["there is no estimator 'exact'"]),
    "capability": (
        "dgmbench",
        MOONS,
        "exact_likelihood",
        "enumeration",
        ["asks for the capability Energy", "take the evaluation out"],
    ),
    "figure": (
        "dgmbench",
        MOONS,
        "likelihood_bars",
        "likelihood_bar",
        ["experiment moons, figure.name", "did you mean"],
    ),
    "published": (
        "dgmbench",
        MOONS,
        GMM,
        f"published: [{PUBLISHED}]\n    {GMM}",
        [
            "experiment moons, row gmm, published (test, log_likelihood)",
            "there is no file results/published/nowhere.csv",
        ],
    ),
    "empty grid": ("dgmbench", MOONS, GMM, f"grid: {{ridge: []}}\n    {GMM}", ["rows.gmm.grid.ridge: has no value"]),
    "values": ("dgmbench", MOONS, "model: gaussian", "model: rbm", ["defined on binary values", "holds real ones"]),
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory, new_project, experiments):
    """A project in which nothing may ever be computed."""
    project = new_project(tmp_path_factory.mktemp("bad") / "project", experiments)
    yield project
    assert not (project.root / "data").exists()
    assert project.results("*") in ([], [project.root / "results/smoke/format.json"])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_that_says_what_to_write(mistake, empty, command_line):
    command, path, old, new, expected = MISTAKES[mistake]
    with empty.edit(path, old, new):
        if command == "snakemake":
            said = refused(empty.snakemake(ok=False))
        else:
            code, said = command_line(empty, "plan")
            assert code == 2
    for words in expected:
        assert words in said


def test_results_of_another_format_are_left_alone(make_project, experiments):
    project = make_project(experiments)
    marker = project.root / "results" / "smoke" / "format.json"
    marker.parent.mkdir()
    marker.write_text(json.dumps({"format": 999}))
    assert "was written in format 999" in refused(project.snakemake(ok=False))
    assert project.results("*") == [marker]


def planned(**spec) -> Run:
    ref = catalogue.resolve("toys-two-moons", {"train": 300, "validation": 100, "test": 100})
    full = model_class("gmm").Spec(**spec).model_dump(mode="json")
    return Run("gmm", full, ref.name, ref.options, ref.identity, 0, code_fingerprint(model_module("gmm")))


def test_missing_data_a_damaged_checkpoint_and_a_full_disk(make_project):
    project = make_project({})
    run = planned(components=2, iterations=40, tolerance=0.0, ridge=1e-3)
    command = ["dgmbench", "train", "--run", json.dumps(asdict(run)), "--checkpoint-seconds", "0"]
    said = refused(project.run(*command, ok=False))
    assert "holds no prepared dataset" in said

    project.dgmbench("prepare", run.dataset, "--options", json.dumps(run.dataset_options))

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    said = refused(project.run(*command, ok=False, preexec_fn=little_room))
    assert "the disk is full" in said
    left = [path for path in project.root.rglob("*") if run.id in str(path) and path.is_file()]
    assert left == []

    checkpoint = project.root / "work" / "smoke" / run.id / "checkpoint.safetensors"
    checkpoint.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{half of it")
    project.run(*command)
    manifest = json.loads((project.root / f"results/smoke/runs/{run.id}/manifest.json").read_text())
    assert (manifest["status"], manifest["steps"]) == ("done", 40)


def test_an_altered_model_is_not_evaluated(complete, tmp_path):
    project = complete.copy(tmp_path / "altered")
    for path in (project.root / "data" / "runs").rglob("model.safetensors"):
        path.write_bytes(path.read_bytes() + b"\0")
    for path in project.results("runs/*/????????????.json"):
        evaluation = json.loads(path.read_text())["evaluation"]
        break
    said = refused(project.dgmbench("evaluate", "--evaluation", json.dumps(evaluation), ok=False))
    assert "is not the file that the run wrote" in said
    said = refused(project.dgmbench("restore", "--no-pull", ok=False))
    assert "3 files are not what their manifests say" in said


def test_a_description_that_is_not_one_is_refused(empty, command_line):
    run = asdict(planned()) | {"code": "0" * 12}
    for text, words in (
        ("{", "--run is not JSON"),
        ("nowhere.yaml", "there is no nowhere.yaml"),
        ('{"model": "gmm"}', "does not describe one run"),
        (json.dumps(run), "plan again (start snakemake again)"),
    ):
        code, said = command_line(empty, "train", "--run", text)
        assert code == 2
        assert words in said
