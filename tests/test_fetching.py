"""Many files at a time: one display, results in the catalogue's order, every error told and nothing else lost."""

import hashlib
import io
import json
import shutil
import sys
import threading
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from serving import serving
from typer.testing import CliRunner

from dgmbench import cli, fetching
from dgmbench.cli import app as application
from dgmbench.config import load_params
from dgmbench.data import catalogue
from dgmbench.data.fetch import fetch, fetch_all
from dgmbench.data.transfer import Stopped, Transfer, side_by_side
from dgmbench.errors import UserError
from dgmbench.params import MIRROR_VARIABLE, mirror_list
from dgmbench.workflow import Workflow

ROOT = Path(__file__).parents[1]
BODIES = {f"{n}{i}.npy": f"{n}{i}".encode() * 20_000 for n in "ab" for i in range(3)}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as made:
        made.files = dict(BODIES)
        yield made


@pytest.fixture
def project(tmp_path, monkeypatch, server):
    """A folder with a catalogue of the datasets a and b, three files each, and c, which is generated."""
    (tmp_path / "catalogue").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path / "catalogue")
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    for name in "abc":
        entry = {"name": name, "title": "t", "version": "1", "description": "d", "licence": "l", "citation": "c"}
        entry |= {"homepage": "h", "loader": "array", "options": {"values": "real", "shape": [2]}}
        entry["files"] = [
            {"name": file, "mirror": f"set/{file}", "urls": [f"{server.url}/{file}"]}
            | {"sha256": hashlib.sha256(body).hexdigest()}
            for file, body in BODIES.items()
            if file.startswith(name)
        ]
        (tmp_path / "catalogue" / f"{name}.yaml").write_text(yaml.safe_dump(entry))
    catalogue._read_version.cache_clear()
    return tmp_path


def sources(name: str) -> list[tuple[str, str]]:
    return [
        (row["file"], row["source"]) for row in json.loads(Path("data/raw", name, "manifest.json").read_text())["files"]
    ]


@pytest.mark.parametrize("jobs", [1, 3, 6])
def test_files_of_all_datasets_are_fetched_together_at_most_so_many(project, server, jobs):
    server.delay = 0.02
    results = fetch_all(["b", "a", "c", "a"], jobs=jobs)
    assert server.most == jobs
    assert [(result.name, len(result.rows), result.error) for result in results] == [
        ("b", 3, None),
        ("a", 3, None),
        ("c", 0, None),
    ]
    assert sources("a") == [(f"a{i}.npy", f"{server.url}/a{i}.npy") for i in range(3)]


def test_what_cannot_be_had_costs_nothing_else(project, server):
    del server.files["a1.npy"], server.files["a2.npy"]
    a, b = fetch_all(["a", "b"])
    assert "file 'a1.npy' of dataset 'a' was not fetched" in a.error
    assert a.error.endswith("(1 more of its files were not fetched either.)")
    assert b.error is None
    assert sorted(path.name for path in Path("data/raw").rglob("*") if path.is_file()) == [
        "a0.npy",
        "b0.npy",
        "b1.npy",
        "b2.npy",
        "manifest.json",
    ]
    with pytest.raises(UserError, match=r"'a1\.npy'"):
        fetch("a")
    server.files = dict(BODIES)
    fetch("a")
    assert [path for path, _ in server.requests].count("/a0.npy") == 1


def test_a_mistake_of_ours_is_no_users_error(project, monkeypatch):
    monkeypatch.setattr("dgmbench.data.fetch._row", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fetch_all(["a", "b"])


def test_results_keep_the_order_of_what_was_asked_and_one_thread_shows_them():
    done = threading.Barrier(3)

    def work(index, transfer):
        done.wait(10)  # only where three run at once
        if index == 1:
            raise UserError("the second")
        return index

    class Display(fetching.Lines):
        threads = set()

        def show(self, transfers):
            self.threads.add(threading.current_thread())

    results = side_by_side(work, [Transfer(str(i)) for i in range(3)], 3, Display())
    assert [results[0], str(results[1]), results[2]] == [0, "the second", 2]
    assert Display.threads == {threading.current_thread()}


def test_an_interruption_ends_what_moves_and_begins_nothing_more():
    begun, ended = [], []

    def work(index, transfer):
        begun.append(index)
        try:
            while True:
                transfer.advance(1)
        except Stopped:
            ended.append(index)
            raise

    class Display(fetching.Lines):
        def show(self, transfers):
            if len(begun) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(work, [Transfer(str(i)) for i in range(5)], 2, Display())
    assert sorted(begun) == sorted(ended) == [0, 1]


def transfers() -> list[Transfer]:
    done = Transfer("a/x", 10_000_000, 10_000_000, ended=True)
    return [done, Transfer("a/y", 2_000_000, 500_000, active=True), Transfer("b/z", None, 100_000, active=True)]


def test_plain_lines_say_what_is_on_its_way_and_not_too_often(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(fetching.time, "monotonic", lambda: clock[0])
    lines = fetching.Lines()
    for clock[0] in (0.5, 1.9, 2.0, 5.0, 11.9):
        lines.show(transfers())
    said = capsys.readouterr().err.splitlines()
    assert said == ["fetch: 1 of 3 files; 5.3 MB/s; a/y 0.5 of 2.0 MB; b/z 0.1 MB"]
    clock[0] = 12.0
    lines.show([Transfer(f"a/{i}", active=True) for i in range(5)])
    assert capsys.readouterr().err == "fetch: 0 of 5 files; 0.0 MB/s; a/0 0.0 MB; a/1 0.0 MB; a/2 0.0 MB; and 2 more\n"


def test_a_terminal_has_a_bar_for_all_and_for_each_that_moves():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    display, moving = fetching.Bars(console), transfers()
    with display:
        display.show(moving)
        assert [task.description for task in display.bar.tasks] == ["fetch: 1 of 3 files", "  a/y", "  b/z"]
        assert [(task.completed, task.total) for task in display.bar.tasks] == [
            (10_600_000, 12_100_000),
            (500_000, 2_000_000),
            (100_000, None),
        ]
        moving[1].active, moving[1].ended = False, True
        display.show(moving)
        assert [task.description for task in display.bar.tasks] == ["fetch: 2 of 3 files", "  b/z"]
    assert "2 of 3 files" in console.file.getvalue()


def run(*arguments: str, monkeypatch, capsys) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["dgmbench", *arguments])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return stop.value.code or 0, said.out, said.err


def test_all_ends_with_a_table(project, server, monkeypatch, capsys):
    status, out, _ = run("fetch", "--all", "--jobs", "2", monkeypatch=monkeypatch, capsys=capsys)
    assert status == 0
    rows = [line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["a", "3", "0.1", "127.0.0.1", "verified"],
        ["b", "3", "0.1", "127.0.0.1", "verified"],
        ["c", "", "", "", "generated, nothing to fetch"],
    ]


def test_all_with_a_failure_is_the_table_the_reasons_and_status_2(project, server, monkeypatch, capsys):
    del server.files["b1.npy"]
    status, out, err = run("fetch", "--all", monkeypatch=monkeypatch, capsys=capsys)
    assert status == 2
    assert [line.split()[-2] for line in out.splitlines() if line.startswith("│")][:2] == ["verified", "failed"]
    assert "1 of 3 datasets could not be fetched:\n  b: file 'b1.npy' of dataset 'b' was not fetched" in err


def test_one_dataset_is_one_line(project, monkeypatch, capsys):
    assert run("fetch", "a", monkeypatch=monkeypatch, capsys=capsys)[1] == "a: verified in data/raw/a\n"
    assert run("fetch", "c", monkeypatch=monkeypatch, capsys=capsys)[1] == "c: generated, nothing to fetch\n"


def test_mirrors_come_from_the_command_line_the_environment_or_params(project, server, monkeypatch):
    for name in ("one mirror", "two"):
        Path(name, "set").mkdir(parents=True)
    for i, where in enumerate(("one mirror", "two", "two")):
        Path(where, "set", f"a{i}.npy").write_bytes(BODIES[f"a{i}.npy"])
    given = {"flags": ["--mirror", "one mirror", "--mirror", "two"], "environment": [], "params": []}
    for how, flags in given.items():
        if how == "environment":
            monkeypatch.setenv(MIRROR_VARIABLE, "one mirror, two")
        if how == "params":
            monkeypatch.delenv(MIRROR_VARIABLE)
            Path("params.yaml").write_text("mirror: [one mirror, two]\n")
        result = CliRunner().invoke(application.app, ["fetch", "a", *flags])
        assert result.exit_code == 0, result.output
        assert sources("a") == [(f"a{i}.npy", f"mirror: set/a{i}.npy") for i in range(3)]
        shutil.rmtree("data")
    assert server.requests == []


def test_params_that_say_offline_are_obeyed(project, server, monkeypatch, capsys):
    Path("params.yaml").write_text("offline: true\n")
    status, _, err = run("fetch", "a", monkeypatch=monkeypatch, capsys=capsys)
    assert status == 2
    assert "offline, so no address was asked" in err
    assert server.requests == []


@pytest.mark.parametrize(
    ("mirror", "mirrors"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ("/a b", ("/a b",)),
        (" /a , https://b/c,/a,", ("/a", "https://b/c")),
        (["/a", "/b,/c"], ("/a", "/b", "/c")),
    ],
)
def test_a_mirror_is_one_or_several(mirror, mirrors, monkeypatch):
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    assert mirror_list(mirror) == load_params({"mirror": mirror}).mirrors == mirrors


def test_jobs_get_the_mirrors_by_the_environment_and_no_rule_knows_them(project, monkeypatch):
    (project / "workflow").symlink_to(ROOT / "workflow")
    (project / "results").mkdir()
    (project / "results/published").symlink_to(ROOT / "results/published")
    monkeypatch.setattr(catalogue, "CATALOGUE", Path(catalogue.__file__).parent / "catalogue")
    made = []
    for mirror in (["/a b", "https://c/d"], None):
        monkeypatch.setattr("dgmbench.workflow.os.environ", {})
        made.append(Workflow({"budget": "smoke", "mirror": mirror}))
    assert made[0].environment()[MIRROR_VARIABLE] == "/a b,https://c/d"
    assert made[1].environment()[MIRROR_VARIABLE] is None
    assert len({bench.fetch_identity("digits") for bench in made}) == 1
    assert made[0].plan.runs.keys() == made[1].plan.runs.keys()
    assert "mirror" not in (ROOT / "workflow/rules/fetch.smk").read_text().lower()
