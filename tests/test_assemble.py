"""What `assemble` refuses to lose, and what says that it was made by earlier code or settings."""

import csv
import math
import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import synthetic_results as synthetic

from dgmbench import files, runs
from dgmbench.assemble import entries, ledger, work
from dgmbench.assemble import experiment as experiment_module
from dgmbench.assemble.experiment import assemble
from dgmbench.assemble.figures import collecting
from dgmbench.assemble.outcomes import Archive, Combined, Outcome
from dgmbench.assemble.superseded import superseded_cells
from dgmbench.assemble.tables_text import escape_markdown
from dgmbench.errors import UserError


def test_numbers_of_earlier_code_or_settings_say_so(assembled, monkeypatch):
    results, _, _, _ = assembled
    experiments, root = synthetic.experiments(), results.parent / "data"
    for name in experiments:
        assemble(name, synthetic.params(), experiments, results, root)
    path = ledger.collect(results, synthetic.params(seeds=1), experiments)
    assert not any(record["status"] == "superseded" for record in ledger.read_csv(path))
    metrics = (results / "demo" / "metrics.json").read_bytes()
    ais = runs.estimator_module("ais")
    monkeypatch.setattr(runs, "code_fingerprint", lambda *modules: "n3w" if ais in modules else "c0de")
    experiments["patches-check"].rows["gmm"].spec["ridge"] = 0.5
    ledger.collect(results, synthetic.params(), experiments)
    old = [record for record in ledger.read_csv(path) if record["status"] == "superseded"]
    assert {(r["experiment"], r["column"].split()[0], r["row"].split()[0]) for r in old} == {
        ("estimators-check", "ais", "rbm"),
        *(("patches-check", split, row) for split in ("train", "validation", "test") for row in ("gmm", "gmm-best")),
    }
    unconverged = next(r for r in old if "not converged" in r["reason"])
    assert unconverged["reason"].startswith(
        "made by earlier code or settings, commit 0123456789ab; the estimator has not"
    )
    assert next(r for r in old if r["row"] == "gmm-best")["verdict"] != "pending"
    summary = (results / "demo" / "ledger.md").read_text()
    assert re.search(
        r"- patches-check: \d+ of \d+ cells were made by earlier code or settings, commit 0123456789ab\.\n", summary
    )
    assert f"- patches-check: {sum(r['experiment'] == 'patches-check' for r in old)} of " in summary
    assert (results / "demo" / "metrics.json").read_bytes() == metrics


def test_tables_say_the_question_and_the_tolerance_of_published_numbers(assembled):
    results, _, _, rows = assembled
    experiments, root = synthetic.experiments(), results.parent / "data"
    for name, experiment in experiments.items():
        assemble(name, synthetic.params(), experiments, results, root)
        text = (results / "demo" / "tables" / f"{name}.md").read_text()
        assert escape_markdown(experiment.question) in text
        tolerances = {entry.published.tolerance for entry in rows[name] if entry.published}
        written = {row["published_tolerance"] for row in ledger.read_csv(results / "demo" / "tables" / f"{name}.csv")}
        assert written == tolerances | {None}
        assert ("reproduced = within" in text) == bool(tolerances)
    assert any(entry.published for name in experiments for entry in rows[name])


def test_numbers_of_other_rows_of_a_split_say_so(assembled):
    _, plan, _, _ = assembled
    (name,) = [n for n in plan.experiments if n == "patches-check"]
    identity = plan.evaluations_of(name)[0]
    run = plan.evaluations[identity].run
    some = replace(plan.evaluations[identity], settings={**plan.evaluations[identity].settings, "examples": 10})
    asked = replace(
        plan, evaluations={**plan.evaluations, some.id: some}, cells={name: [SimpleNamespace(evaluations=[some.id])]}
    )
    cell = {"status": "done", "seeds": [{"run": run, "evaluation": "of the first rows"}]}
    record = {"evaluation": asdict(some), "measured": {"commit": "0123456789abcdef"}}
    for key, expected in (("of the first rows", {"cell": ["0123456789ab"]}), (some.id, {})):
        cell["seeds"][0]["evaluation"] = key
        shown = {"cells": {"cell": cell}, "runs": {run: {"run": asdict(plan.runs[run])}}, "evaluations": {key: record}}
        assert superseded_cells(shown, name, asked) == expected


def test_no_number_becomes_pending_in_silence(assembled, monkeypatch):
    results, _, _, _ = assembled
    name, experiments = "patches-check", synthetic.experiments()
    arguments = (name, synthetic.params(), experiments, results, results.parent / "data")
    paths = assemble(*arguments)
    before = {path: path.read_bytes() for path in paths}
    monkeypatch.setattr(runs, "code_fingerprint", lambda *modules: "n3w")
    with pytest.raises(UserError, match=r"numbers of its tables .* would be lost.*budget=demo.*--anyway"):
        assemble(*arguments)
    assert {path: path.read_bytes() for path in paths} == before
    assert assemble(*arguments, only_begun=True) == []
    assert assemble(*arguments, anyway=True) == paths
    assert all(path.read_bytes() != before[path] for path in paths if path.suffix == ".csv")


def test_a_difference_stands_where_values_of_single_examples_are_gone(assembled):
    results, plan, archive, _ = assembled
    name, experiments = "patches-check", synthetic.experiments()
    arguments = (name, synthetic.params(), experiments, results, results.parent / "data")
    paths = assemble(*arguments)
    before = {path: path.read_bytes() for path in paths}
    (evaluation,) = {
        e for cell in plan.cells[name] if cell.row == "gaussian" and cell.column == "test" for e in cell.evaluations[:1]
    }
    record = archive.evaluation(plan.evaluations[evaluation].run, evaluation)
    archive.blob(record, "per_example").unlink()
    assert assemble(*arguments) == paths
    assert {path: path.read_bytes() for path in paths} == before
    # The same evaluation made again on a machine that rounds in another way, and then one that is another number.
    small = results / "demo" / "runs" / plan.evaluations[evaluation].run / f"{evaluation}.json"
    table = next(path for path in paths if path.name == f"{name}-paired.csv")
    line = next(li for li in csv.DictReader(before[table].decode().splitlines()) if li["row"] == "gmm components=4")
    value, se = record["numbers"][0]["value"], float(line["se"])
    assert se > 1e-3
    for moved, stands in ((0.05 * se, True), (0.2 * se, False)):
        files.write_json(small, {**record, "numbers": [{**record["numbers"][0], "value": value + moved}]})
        assemble(*arguments)
        found = {li["row"]: li for li in csv.DictReader(table.read_text().splitlines())}["gmm components=4"]
        assert (found["difference"] == line["difference"]) == stands
        assert ("is not on this machine" in found["reason"]) != stands
        table.write_bytes(before[table])
    files.write_json(small, record)
    assert assemble(*arguments, anyway=True) == paths
    assert {path.name for path in paths if path.read_bytes() != before[path]} == {table.name}


@pytest.mark.parametrize("changed", ["evaluation", "n_seeds", "name"])
def test_a_difference_is_of_its_evaluations_and_not_of_its_rows_names(assembled, changed):
    results, _, _, _ = assembled
    name, experiments = "patches-check", synthetic.experiments()
    arguments = (name, synthetic.params(), experiments, results, results.parent / "data")
    assemble(*arguments)
    shown = results / "demo" / "provenance" / f"{name}.json"
    table = results / "demo" / "tables" / f"{name}-paired.csv"
    lines = {line["row"]: line for line in csv.DictReader(table.read_text().splitlines())}
    for blob in (results.parent / "data").rglob("*.parquet"):
        blob.unlink()
    known = files.read_json(shown)
    cell = known["cells"]["gmm components=4 | test | log_likelihood"]
    if changed == "evaluation":
        cell["seeds"][0]["evaluation"] = "0" * 12
    elif changed == "n_seeds":
        cell["n_seeds"] -= 1
    else:
        known["cells"]["of another name | test | log_likelihood"] = known["cells"].pop(
            "gmm components=4 | test | log_likelihood"
        )
        table.write_text(table.read_text().replace("gmm components=4,", "of another name,"))
    files.write_json(shown, known)
    assemble(*arguments)
    after = {line["row"]: line for line in csv.DictReader(table.read_text().splitlines())}
    assert after["gmm components=16"] == lines["gmm components=16"]
    stood = after["gmm components=4"] == lines["gmm components=4"]
    assert stood == (changed == "name")
    assert ("is not on this machine" in after["gmm components=4"]["reason"]) != stood


def test_a_picture_stands_from_one_assembly_to_the_next(assembled, monkeypatch):
    """From the arrays to the picture, its provenance and the page, with the figures really drawn."""
    results, _, _, _ = assembled
    monkeypatch.setattr(experiment_module, "draw_all", collecting.draw_all)
    name, experiments = "patches-check", synthetic.experiments()
    arguments = (name, synthetic.params(), experiments, results, results.parent / "data")
    assemble(*arguments)
    picture = results / "demo" / "figures" / f"{name}-samples.svg"
    shown, before = results / "demo" / "provenance" / f"{name}.json", picture.read_bytes()
    drawn = files.read_json(shown)["pictures"]["-samples"]
    assert drawn["kept"] == ""
    blob = next(results.parent.rglob(f"{next(iter(drawn['drawn_from']))}.npz"))
    blob.rename(blob.with_suffix(".away"))
    assemble(*arguments)
    told = files.read_json(shown)["pictures"]["-samples"]
    assert told["drawn_from"] == drawn["drawn_from"]
    assert told["kept"].startswith("Drawn when its table was assembled before: 1 of the ")
    assert picture.read_bytes() == before
    # The PDF of it stands too, but that of another picture is removed.
    beside = picture.with_suffix(".pdf")
    assert beside in assemble(*arguments)
    beside.write_bytes(picture.with_name(f"{name}.pdf").read_bytes())
    paths = assemble(*arguments)
    assert picture in paths
    assert beside not in paths
    assert not beside.is_file()
    assemble(*arguments, anyway=True)
    assert picture.read_bytes() != before
    # What a picture with holes shows is all here: it is drawn anew with what came back.
    blob.with_suffix(".away").rename(blob)
    assemble(*arguments)
    assert files.read_json(shown)["pictures"]["-samples"] == drawn
    assert picture.read_bytes() == before


def test_what_training_and_evaluation_took(assembled):
    results, plan, _, _ = assembled
    name, experiments = "patches-check", synthetic.experiments()
    row = "gmm components=4"
    (evaluations,) = [cell.evaluations for cell in plan.cells[name] if (cell.row, cell.column) == (row, "test")]
    run = plan.evaluations[evaluations[1]].run
    folder = results / "demo" / "runs" / run
    manifest = files.read_json(folder / "manifest.json")
    manifest["steps"] = 1000
    manifest["measured"] = {**manifest["measured"], "seconds": 22.5, "processes": 4, "peak_memory_mb": 400.0}
    files.write_json(folder / "manifest.json", manifest)
    (folder / "history.csv").write_text("step,exchanged_share\n1,0.25\n2,0.5\n")
    assemble(name, synthetic.params(), experiments, results, results.parent / "data")
    path = results / "demo" / "tables" / f"{name}-work.csv"
    everything = work.read(path)
    lines = {line["row"]: line for line in everything if line["job"] == work.TRAINING}
    took = lines[row]
    assert (took["n_seeds"], took["steps"], took["processes"], took["threads"]) == (2, 1500, 4, 1)
    assert (took["seconds"], took["seconds_per_step"]) == (17.5, 35 / 3000)
    assert took["seconds_sd"] == pytest.approx(10 / math.sqrt(2))
    assert (took["exchanged_share"], took["peak_memory_mb"]) == (0.375, 400.0)
    assert lines["gaussian"]["exchanged_share"] is None
    (scored,) = (line for line in everything if (line["row"], line["job"]) == (row, "test"))
    assert (scored["estimator"], scored["n_seeds"], scored["seconds"], scored["seconds_sd"]) == (
        "exact_likelihood",
        2,
        12.5,
        0,
    )
    assert (scored["steps"], scored["parameters"], scored["seconds_per_step"]) == (None, None, None)
    assert everything.index(scored) > everything.index(took)
    # A row that repeats another one's runs was not trained.
    assert "gmm-best" not in lines
    (shown,) = (line for line in work.printed(lines.values(), {row: "four"}) if line["row"] == "four")
    assert (shown["processes x threads"], shown["exchanged / data, a step"], shown["steps"]) == (
        "4 x 1",
        "0.375",
        "1,500",
    )
    assert "What training" not in (results / "demo" / "tables" / f"{name}.md").read_text()


@pytest.mark.parametrize("evaluated", ["the same", "another", None])
def test_an_evaluation_of_another_model_than_the_runs_is_pending(assembled, evaluated):
    results, plan, _, _ = assembled
    evaluation = next(e for e in plan.evaluations.values() if e.estimator == "ais")
    folder = results / "demo" / "runs" / evaluation.run
    for path, change in (
        (folder / "manifest.json", {"files": {"model": {"path": "data/model", "sha256": "the same", "bytes": 1}}}),
        (folder / f"{evaluation.id}.json", {"model_sha256": evaluated}),
    ):
        files.write_json(path, files.read_json(path) | change)
    archive = Archive(results / "demo", results.parent / "data")
    found = archive.outcome(evaluation.run, evaluation.id, "log_likelihood")
    if evaluated == "another":
        assert archive.evaluation(evaluation.run, evaluation.id) is None
        assert found.status == "pending"
        assert f"run {evaluation.run} was trained again after evaluation {evaluation.id}" in found.reason
        assert str(folder / f"{evaluation.id}.json") in found.reason
    else:
        assert found.status == "done"


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (
            {"k": 4000, "gain_of_doubling": 0.154, "tolerance": 0.1},
            ": the last doubling, to 4,000 draws, gained 0.154 nats, limit 0.1",
        ),
        (
            {"gain_of_doubling": 0.154, "tolerance": 0.1},
            ": the last doubling of the draws gained 0.154 nats, limit 0.1",
        ),
        ({"gain_of_doubling": 0.05, "tolerance": 0.1, "ais_not_converged_because": "halves apart"}, ": halves apart"),
        (
            {"k": 100, "gain_of_doubling": 0.3, "gain_tolerance": 0.2, "tolerance": 9, "not_converged_because": "wide"},
            ": wide; the last doubling, to 100 draws, gained 0.3 nats, limit 0.2",
        ),
        ({}, ""),
    ],
)
def test_an_unconverged_number_says_which_of_its_tests_failed(evidence, said):
    number = synthetic.number("log_likelihood", -97.0, converged=False, evidence=evidence)
    combined = Combined((Outcome("run", "evaluation", "done", "", number | {"unit": "nats"}),))
    assert combined.status == "unconverged"
    assert combined.reason == f"the estimator has not converged (seed 0{said})"


@pytest.mark.parametrize(("error", "converged"), [(None, None), (0.0, None), (4.0, None), (6.0, False)])
def test_clock_readings_that_lie_apart_have_not_converged(error, converged):
    found = entries._steady(Outcome("run", "evaluation", "done", "", synthetic.number("ms", 50.0, estimator_se=error)))
    assert found.number["converged"] is converged
    assert found.value == 50.0
    if converged is False:
        reason = found.number["evidence"]["not_converged_because"]
        assert reason == "its readings of the clock lie apart, by 12% of it: time it on an idle machine"


def test_a_cell_of_clock_readings_says_that_they_lie_apart(assembled, monkeypatch):
    results, plan, archive, _ = assembled
    experiments = synthetic.experiments()

    def of_estimators() -> dict[str, str]:
        built = entries.build_entries(
            plan, "estimators-check", experiments["estimators-check"], archive, results / "published"
        )
        own = [entry for entry in built if entry.estimator == "importance_weighted"]
        return {entry.key: entry.reason for entry in own if entry.combined.obtained is not None}

    assert not any("lie apart" in reason for reason in of_estimators().values())
    monkeypatch.setattr(entries, "LARGEST_CLOCK_ERROR", 1e-9)
    assert not any("lie apart" in reason for reason in of_estimators().values())
    known = entries.estimator

    def of_clock(name: str) -> SimpleNamespace:
        metrics = known(name).METRICS
        return SimpleNamespace(METRICS=metrics, CLOCK_READINGS=frozenset(metrics))

    monkeypatch.setattr(entries, "estimator", of_clock)
    assert all("lie apart" in reason for reason in of_estimators().values())
    assert of_estimators()
