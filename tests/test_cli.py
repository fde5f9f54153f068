"""The command line: verbs that say what they do, documents as arguments, and endings that a person can read."""

import errno
import json
import signal
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from dgmbench import __version__, cli
from dgmbench.cli import app as application
from dgmbench.cli import arguments
from dgmbench.errors import UserError
from dgmbench.runs import Evaluation


@pytest.fixture
def ended(monkeypatch, capsys):
    """What `main` prints and ends with where a verb raises an error."""
    monkeypatch.setattr(sys, "argv", ["dgmbench"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(error: BaseException) -> tuple[int, str]:
        def app() -> None:
            raise error

        monkeypatch.setattr(application, "app", app)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr().err

    return run


def test_every_verb_says_what_it_does():
    for command in application.app.registered_commands:
        assert command.callback.__doc__
        assert command.rich_help_panel in (application.STEPS, application.PEOPLE)
        name = command.name or command.callback.__name__
        assert CliRunner().invoke(application.app, [name, "--help"]).exit_code == 0


def test_version():
    assert CliRunner().invoke(application.app, ["--version"]).output == f"dgmbench {__version__}\n"


def assembling(monkeypatch, tmp_path, fails: dict[str, Exception]):
    """`dgmbench assemble` of three made-up experiments: what was assembled, and how it is called."""
    import dgmbench.assemble.experiment as experiment
    import dgmbench.config as config

    monkeypatch.chdir(tmp_path)
    made = []

    def assemble(name, params, experiments, anyway, only_begun):
        if name in fails:
            raise fails[name]
        made.append(name)
        return [tmp_path]

    whole = {name: SimpleNamespace(budgets={"smoke": None}) for name in ("one", "two", "three")}
    monkeypatch.setattr(experiment, "assemble", assemble)
    monkeypatch.setattr(config, "load_experiments", lambda: whole)
    return made, lambda *words: CliRunner().invoke(application.app, ["assemble", *words, "--budget", "smoke"])


@pytest.mark.parametrize("error", [UserError("no such figure."), KeyError("column"), ValueError()])
def test_an_experiment_that_cannot_be_assembled_costs_no_other(monkeypatch, tmp_path, error):
    made, call = assembling(monkeypatch, tmp_path, {"two": error})
    done = call("--all")
    assert made == ["one", "three"]
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith("1 of 3 experiments could not be assembled:\n  two: ")
    assert type(call("two").exception) is type(error)


@pytest.mark.parametrize("said", ["two: 3 files are away.", "experiment two, row a: no."])
def test_an_error_that_begins_with_its_experiment_names_it_once(monkeypatch, tmp_path, said):
    _, call = assembling(monkeypatch, tmp_path, {"two": UserError(said)})
    assert str(call("--all").exception) == f"1 of 3 experiments could not be assembled:\n  {said}"


def test_all_experiments_that_can_be_assembled_are(monkeypatch, tmp_path):
    made, call = assembling(monkeypatch, tmp_path, {})
    assert call("--all").exit_code == 0
    assert made == ["one", "two", "three"]


@pytest.fixture
def reporting(monkeypatch, tmp_path):
    """A call of `report` where one and three of three experiments have tables; what each page is about."""
    import dgmbench.assemble.ledger as ledger
    import dgmbench.config as config
    import dgmbench.report.site as site

    monkeypatch.chdir(tmp_path)
    tables = tmp_path / "results/smoke/tables"
    tables.mkdir(parents=True)
    for name in ("one", "three"):
        (tables / f"{name}.csv").touch()
    whole = {name: SimpleNamespace(budgets={"smoke": None}) for name in ("one", "two", "three")}
    pages = []
    monkeypatch.setattr(config, "load_experiments", lambda: whole)
    monkeypatch.setattr(ledger, "collect", lambda results, params, experiments: "ledger")
    monkeypatch.setattr(
        site, "build", lambda params, experiments, results, absent: pages.append([*map(list, (experiments, absent))])
    )

    def call(*options: str) -> list[list[str]]:
        assert CliRunner().invoke(application.app, ["report", "--budget", "smoke", *options]).exit_code == 0
        return pages[-1]

    return call


def test_a_page_of_what_is_present_leaves_the_others_out(reporting):
    assert reporting() == [["one", "three"], ["two"]]
    assert reporting("--only", "one", "--only", "two", "--present") == [["one", "three"], ["two"]]
    # Asked for by name, it is missed: collecting says so.
    assert reporting("--only", "one", "--only", "two") == [["one", "two", "three"], []]


def test_a_run_of_one_experiment_leaves_the_others_in_the_ledger(reporting):
    assert reporting("--only", "three") == [["one", "three"], []]


def test_where_nothing_is_assembled_it_says_what_to_run(reporting, tmp_path):
    for table in (tmp_path / "results/smoke/tables").iterdir():
        table.unlink()
    for options in ((), ("--only", "two"), ("--present",)):
        done = CliRunner().invoke(application.app, ["report", "--budget", "smoke", *options])
        assert "`snakemake --cores all --config budget=smoke`" in str(done.exception)


def test_a_persons_mistake_is_its_sentence_and_status_2(ended):
    assert ended(UserError("write this instead.")) == (2, "dgmbench: write this instead.\n")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_with_the_file(ended, code):
    status, said = ended(OSError(code, "full", "results/x.json"))
    assert status == 2
    assert said.startswith("dgmbench: the disk is full while writing results/x.json")


def test_an_interruption_says_that_nothing_is_lost(ended):
    status, said = ended(SystemExit(cli.INTERRUPTED))
    assert status == cli.INTERRUPTED
    assert "start again to continue" in said


def test_other_errors_are_not_hidden(monkeypatch):
    def app() -> None:
        raise PermissionError(errno.EACCES, "no", "x")

    monkeypatch.setattr(application, "app", app)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(PermissionError):
        cli.main()


def test_a_document_is_json_in_place_or_a_file(tmp_path):
    value = {"ridge": 1e-06, "name": "gmm", "seeds": [1, 2]}
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps({"name": "gmm"}))
    # YAML would read the 1e-06 as a string.
    assert arguments.document(json.dumps(value), "--run") == value
    assert arguments.document(str(path), "--run") == {"name": "gmm"}


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is not JSON"), ("missing.yaml", "there is no missing.yaml"), ("{}x", "is not JSON")]
)
def test_what_is_no_document_is_said(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        arguments.document(text, "--run")


def test_a_description_is_complete_or_refused_and_its_id_is_not_part_of_it():
    values = {"run": "a", "estimator": "ais", "settings": {}, "code": "c"}
    assert arguments.described(Evaluation, {"id": "anything", **values}, "--evaluation") == Evaluation(**values)
    with pytest.raises(UserError, match="does not describe one evaluation"):
        arguments.described(Evaluation, {"run": "a"}, "--evaluation")
