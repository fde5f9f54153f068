"""A tiny project with the real Snakefile, rules, command line and package, in a folder of its own."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from dgmbench.runs import Run

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.executable)

MOONS = {"name": "toys-two-moons", "options": {"train": 300, "validation": 100, "test": 100}}
DIGITS = {"name": "digits"}


def experiment(rows: dict, evaluations: dict, datasets: list[dict], **more) -> dict:
    """The YAML of an experiment with one budget, smoke."""
    return {
        "title": "A tiny table",
        "document": "Nobody, Nothing",
        "source": "table 1",
        "question": "Does the pipeline do what it says?",
        "rows": rows,
        "evaluations": evaluations,
        "figure": {"name": "likelihood_bars"},
        "budgets": {"smoke": {"datasets": datasets}},
        **more,
    }


# Both ask for the same run of gmm on the moons and for the same evaluation of it; the digits have raw files.
EXPERIMENTS = {
    "moons": experiment(
        {
            "gaussian": {"model": "gaussian", "evaluate": ["test", "samples"]},
            "gmm": {"model": "gmm", "spec": {"components": 2, "iterations": 5, "ridge": 0.001}, "evaluate": ["test"]},
        },
        {"test": {"estimator": "exact_likelihood"}, "samples": {"estimator": "samples", "settings": {"count": 16}}},
        [MOONS],
    ),
    "mixtures": experiment(
        {"mixture": {"model": "gmm", "spec": {"components": 2, "iterations": 5, "ridge": 0.001}, "evaluate": ["test"]}},
        {"test": {"estimator": "exact_likelihood"}},
        [MOONS, DIGITS],
    ),
}


class Project:
    """A project folder and the commands that are run in it. The package's code is the folder's own copy."""

    def __init__(self, root: Path):
        self.root = root
        binaries = root / "bin"
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("DGMBENCH_", "SNAKEMAKE_", "PYTEST_"))},
            "PATH": f"{binaries}{os.pathsep}{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(root / "src"),
            "XDG_CACHE_HOME": str(root / "cache"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    @classmethod
    def create(cls, root: Path, experiments: dict[str, dict]) -> "Project":
        root.mkdir(parents=True, exist_ok=True)
        skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "experiments")
        for name in ("src", "workflow"):
            shutil.copytree(ROOT / name, root / name, ignore=skip)
        (root / "profiles").symlink_to("workflow/profiles")
        shutil.copytree(ROOT / "results" / "published", root / "results" / "published")
        for name in ("Snakefile", "dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
            (root / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"budget": "smoke", "offline": True}
        (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        wrapper = root / "bin" / "dgmbench"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec "{PYTHON}" -m dgmbench.cli "$@"\n')
        wrapper.chmod(0o755)
        project = cls(root)
        for name, plan in experiments.items():
            project.write_experiment(name, plan)
        return project

    def clone(self, root: Path) -> "Project":
        """What git gives, and the wrapper that is not in it."""
        self.run("git", "clone", "--quiet", str(self.root), str(root))
        shutil.copytree(self.root / "bin", root / "bin")
        (root / ".git" / "info" / "exclude").write_text("bin/\ncache/\n")
        return Project(root)

    def copy(self, root: Path) -> "Project":
        """The same project elsewhere, time stamps and all."""
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)

    def experiment_path(self, name: str) -> Path:
        return self.root / "workflow" / "experiments" / "tiny" / f"{name}.yaml"

    def write_experiment(self, name: str, plan: dict) -> None:
        path = self.experiment_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(plan, sort_keys=False))

    def run(self, *command: str, ok: bool = True, **options) -> subprocess.CompletedProcess:
        """A command in the project's folder; `ok` fails the test where it does not end with 0."""
        done = subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, **options)
        if ok:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def dgmbench(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess:
        return self.run("dgmbench", *arguments, ok=ok)

    def snakemake(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess:
        return self.run("snakemake", "--cores", "2", *arguments, ok=ok)

    def pending(self, *targets: str) -> list[str]:
        """What a dry run would do, sorted: "train gmm on toys-two-moons", "assemble moons", "report"."""
        done = self.run("snakemake", *targets, "--dry-run", "--printshellcmds", "--quiet", "host")
        commands = re.findall(
            r"^Shell command: (?:mkdir .*|torchrun .*-- )?dgmbench (.*?) 2>&1", done.stdout + done.stderr, re.MULTILINE
        )
        if not commands:
            assert "Nothing to be done" in done.stdout + done.stderr, done.stdout + done.stderr
        runs = {path.parent.name: json.loads(path.read_text())["run"] for path in self.results("runs/*/manifest.json")}
        jobs = [shlex.split(command) for command in commands]
        for run in (json.loads(words[2]) for words in jobs if words[0] == "train"):
            runs[Run(**run).id] = run
        return sorted(_describe(words, runs) for words in jobs)

    @contextmanager
    def background(self, *command: str) -> Iterator[subprocess.Popen]:
        """A command in its own process group, which is killed at the end whatever happens."""
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def edit(self, path: str, old: str, new: str) -> "Edit":
        return Edit(self.root / path, old, new)

    def results(self, pattern: str) -> list[Path]:
        return sorted((self.root / "results" / "smoke").glob(pattern))


def _describe(words: list[str], runs: dict[str, dict]) -> str:
    match words:
        case ["train", _, run, *_]:
            return "train {model} on {dataset}".format(**json.loads(run))
        case ["evaluate", _, evaluation, *_]:
            plan = json.loads(evaluation)
            return "evaluate {model} on {dataset} by {by}".format(by=plan["estimator"], **runs[plan["run"]])
        case ["report", *_]:
            return "report"
    return " ".join(words[:2])


class Edit:
    """`old` replaced by `new` in a file inside a `with` block; the file comes back as it was, time stamp and all."""

    def __init__(self, path: Path, old: str, new: str):
        self.path, self.old, self.new = path, old, new

    def __enter__(self) -> None:
        self.before, self.times = self.path.read_bytes(), os.stat(self.path)
        text = self.before.decode()
        assert self.old in text, f"{self.path} does not hold {self.old!r}"
        self.path.write_text(text.replace(self.old, self.new))

    def __exit__(self, *_) -> None:
        self.path.write_bytes(self.before)
        os.utime(self.path, ns=(self.times.st_atime_ns, self.times.st_mtime_ns))


def _wait_until(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None and not condition():
            pytest.fail(f"the process ended with {process.returncode} too early:\n{process.stdout.read()}")
        if time.monotonic() > deadline:
            pytest.fail(f"nothing came in {seconds} s")
        time.sleep(0.005)


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Poll until a condition holds; fail where the process that should bring it about ends before."""
    return _wait_until


@pytest.fixture(scope="session")
def experiments() -> dict[str, dict]:
    """The two tiny experiments, by name."""
    return EXPERIMENTS


@pytest.fixture(scope="session")
def new_project() -> Callable[..., Project]:
    """A function that makes a project in a folder, with the given experiments and nothing computed."""
    return Project.create


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Project]:
    """The same in the test's own folder."""
    return lambda experiments: Project.create(tmp_path / "project", experiments)


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that was run to its end once. Tests undo what they edit in it, or work on a copy."""
    done = Project.create(tmp_path_factory.mktemp("complete") / "project", EXPERIMENTS)
    done.snakemake()
    return done
