"""The ledger: verdicts, statuses, uncertainties over seeds, selections, published numbers, paired differences."""

import importlib.util
import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from dgmbench.assemble import experiment as experiment_module
from dgmbench.assemble import ledger, paired, provenance
from dgmbench.assemble.entries import build_entries
from dgmbench.assemble.experiment import assemble
from dgmbench.assemble.outcomes import Archive, Combined, Outcome
from dgmbench.assemble.published import Published
from dgmbench.assemble.verdict import verdict
from dgmbench.config import Experiment
from dgmbench.errors import UserError
from dgmbench.runs import make_plan
from dgmbench.workflow import FIGURES

_SPEC = importlib.util.spec_from_file_location("synthetic_results", Path(__file__).parent / "synthetic_results.py")
synthetic = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(synthetic)
LL = synthetic.LL
PRINTED = Published(10.0, None, "exact", 0.5, "as printed", "a file")


@pytest.fixture
def results(tmp_path, monkeypatch):
    synthetic.stand_ins(monkeypatch)
    # Figures have tests of their own, and take longer than everything here together.
    monkeypatch.setattr(experiment_module, "draw_all", lambda *figures: [])
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("obtained", "better", "expected"),
    [
        (10.4, "higher", "reproduced"),
        (10.5, "higher", "reproduced"),
        (9.5, "lower", "reproduced"),
        (10.6, "higher", "better"),
        (9.4, "higher", "worse"),
        (9.4, "lower", "better"),
        (10.6, "lower", "worse"),
        (10.6, "neither", "worse"),
        (9.4, "neither", "worse"),
    ],
)
def test_verdict_follows_tolerance_and_direction(obtained, better, expected):
    assert verdict(obtained, "exact", better, "done", PRINTED, None)[0] == expected


def test_verdict_never_compares_kinds_or_protocols_in_silence():
    word, reason = verdict(10.0, "parzen", "higher", "done", PRINTED, None)
    assert word == "protocol differs"
    assert "parzen" in reason
    assert "exact" in reason
    assert verdict(10.0, "exact", "higher", "done", PRINTED, "other data") == ("protocol differs", "other data")


def test_verdict_without_a_number():
    assert verdict(None, "exact", "higher", "pending", PRINTED, "other data")[0] == "pending"
    assert verdict(None, "exact", "higher", "failed", PRINTED, None)[0] == "failed"
    assert verdict(None, "exact", "higher", "refused", None, None)[0] == "failed"
    assert verdict(1.0, "exact", "higher", "done", None, "other data")[0] == "not published"


def done(value, test_se=0.3, estimator_se=0.0, converged=None):
    number = {"value": value, "test_se": test_se, "estimator_se": estimator_se, "converged": converged}
    return Outcome("run", "evaluation", "done", number=number)


def test_three_uncertainties_are_combined_apart():
    combined = Combined((done(1.0, 0.3, 0.3), done(2.0, 0.5, 0.4), done(4.0, 0.1, 0.0)))
    assert combined.obtained == pytest.approx(7 / 3)
    assert combined.test_se == pytest.approx(0.3)
    assert combined.estimator_se == pytest.approx(0.5 / 3)
    assert combined.seed_sd == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert combined.status == "done"


def test_one_seed_has_no_spread_over_seeds():
    assert Combined((done(1.0),)).seed_sd is None


def test_statuses_of_several_seeds():
    failed = Outcome("r", "e", "failed", "diverged at step 3")
    refused = Outcome("r", "e", "refused", "no density")
    pending = Outcome("r", "e", "pending", "not trained")
    partial = Combined((done(1.0), failed))
    assert (partial.status, partial.obtained) == ("partial", 1.0)
    assert partial.reason == "1 of 2 seeds; diverged at step 3"
    assert Combined((failed, pending)).status == "failed"
    assert "seed 1 pending: not trained" in Combined((failed, pending)).reason
    assert Combined((refused, refused)).status == "refused"
    assert Combined((pending, pending)).status == "pending"
    assert Combined((done(1.0, converged=True), done(1.0, converged=True))).converged is True
    unconverged = Combined((done(1.0, converged=True), done(1.0, converged=False)))
    assert (unconverged.status, unconverged.converged) == ("unconverged", False)
    assert "seed 1" in unconverged.reason


def test_nothing_run_yet_is_pending_everywhere(results):
    experiments = synthetic.experiments()
    (results / "published").mkdir(parents=True)
    (results / "published" / "table.csv").write_text(synthetic.PUBLISHED)
    for name in experiments:
        assemble(name, synthetic.params(), experiments, results, results.parent / "data")
        rows = ledger.read_csv(results / "demo" / "tables" / f"{name}.csv")
        assert {row["verdict"] for row in rows} == {"pending"}
        assert {row["status"] for row in rows} == {"pending"}
        assert all(row["reason"] for row in rows)
    ledger.collect(results, synthetic.params(), experiments)
    metrics = json.loads((results / "demo" / "metrics.json").read_text())
    assert metrics == {name: {} for name in experiments}


@pytest.fixture
def assembled(results):
    experiments = synthetic.experiments()
    plan = make_plan(synthetic.params(), experiments)
    synthetic.write_everything(results, plan)
    archive = Archive(results / "demo", results.parent / "data")
    rows = {
        name: build_entries(plan, name, experiment, archive, results / "published")
        for name, experiment in experiments.items()
    }
    return results, plan, archive, rows


def by_row(entries, row, column="test"):
    return next(e for e in entries if e.row == row and e.column == column and e.metric)


def test_columns_are_in_the_promised_order(assembled):
    _, _, _, rows = assembled
    text = ledger.to_csv(ledger.records(rows["estimators-check"]))
    assert text.splitlines()[0] == (
        "experiment,dataset,model,variant,metric,unit,kind,obtained,test_se,estimator_se,seed_sd,n_seeds,published,"
        "published_spread,verdict,status,reason,run_ids,row,column,control,protocol,published_kind,published_source,"
        "published_protocol,converged,bits_per_pixel"
    )
    assert "samples" not in {record["column"] for record in ledger.records(rows["estimators-check"])}


def test_csv_round_trip_keeps_every_digit(assembled, tmp_path):
    _, _, _, rows = assembled
    records = ledger.records(rows["estimators-check"])
    path = tmp_path / "table.csv"
    path.write_text(ledger.to_csv(records))
    assert ledger.read_csv(path) == records


def test_a_table_of_an_earlier_version_is_read_with_what_came_later_empty(assembled, tmp_path):
    _, _, _, rows = assembled
    records = ledger.records(rows["patches-check"])
    path = tmp_path / "table.csv"
    path.write_text(_without(records, "bits_per_pixel"))
    assert "bits_per_pixel" not in path.read_text()
    assert ledger.read_csv(path) == [record | {"bits_per_pixel": None} for record in records]


def _without(records, column):
    columns = [name for name in ledger.COLUMNS if name != column]
    return ledger.to_csv([{name: record[name] for name in columns} for record in records], columns)


def test_log_likelihoods_of_dequantised_pixels_have_bits_and_nothing_else_has(assembled):
    _, _, _, rows = assembled
    for entry in rows["patches-check"]:
        obtained = entry.combined.obtained
        if entry.metric == LL and obtained is not None:
            # 64 pixels of 256 levels; the mean costs log 64 and no density of its own.
            expected = 8 - (obtained - math.log(64)) / (64 * math.log(2))
            assert entry.bits_per_pixel == pytest.approx(expected, rel=1e-12)
            assert "the removed mean is coded as uniform on [0, 1)" in entry.bits_convention
        else:
            assert (entry.bits_per_pixel, entry.bits_convention) == (None, "")
    assert by_row(rows["patches-check"], "gmm-best").bits_per_pixel is not None
    assert by_row(rows["patches-check"], "deep").bits_per_pixel is None
    assert all(record["bits_per_pixel"] is None for record in ledger.records(rows["estimators-check"]))
    bits = by_row(rows["patches-check"], "gaussian")
    assert replace(bits, metric="log_z").bits_per_pixel is None
    assert replace(bits, unit="").bits_per_pixel is None


def test_why_prints_the_bits_with_their_convention(assembled):
    _, plan, archive, rows = assembled
    experiment = synthetic.experiments()["patches-check"]
    cells = provenance.provenance(rows["patches-check"], plan, "patches-check", experiment, archive)["cells"]
    cell = cells["gaussian | test | log_likelihood"]
    text = "\n".join(provenance._describe_cell(cell))
    assert f"bits per pixel   {cell['bits_per_pixel']:.4f}: bits of the integer pixels" in text
    assert "the removed mean is coded as uniform on [0, 1)" in text
    older = {name: value for name, value in cell.items() if not name.startswith("bits")}
    assert "bits per pixel" not in "\n".join(provenance._describe_cell(older))


def test_published_number_is_scaled_and_compared(assembled):
    _, _, _, rows = assembled
    entry = by_row(rows["estimators-check"], "rbm", "exact")
    assert (entry.published.value, entry.published.spread) == (-19.4, 0.2)
    assert "table.csv" in entry.published.source
    assert entry.verdict == "reproduced"


def test_diverged_seed_leaves_a_partial_cell_with_its_reason(assembled):
    _, _, _, rows = assembled
    entry = by_row(rows["estimators-check"], "vae", "bound k=10")
    assert (entry.status, entry.verdict, len(entry.combined.done)) == ("partial", "not published", 1)
    assert "diverged at step 40" in entry.reason


def test_published_only_row_is_pending(assembled):
    _, _, _, rows = assembled
    entry = by_row(rows["patches-check"], "deep")
    assert (entry.verdict, entry.status, entry.published.value) == ("pending", "pending", 156.2)
    assert entry.reason == "the model is not here yet"


def test_selection_repeats_the_variant_best_on_validation(assembled):
    results, plan, _, _ = assembled
    # Make 4 components best on validation although 64 is best on test.
    name, best = "patches-check", "gmm components=4"
    cell = next(c for c in plan.cells[name] if c.row == best and c.column == "validation")
    for evaluation in cell.evaluations:
        synthetic.write_evaluation(results, plan.evaluations[evaluation], [synthetic.number(LL, 999.0)])
    entries = build_entries(
        plan, name, synthetic.experiments()[name], Archive(results / "demo", results), results / "published"
    )
    chosen, origin = by_row(entries, "gmm-best"), by_row(entries, best)
    assert chosen.combined.obtained == origin.combined.obtained
    assert chosen.variant == "components=4, chosen on validation"
    assert (chosen.label, chosen.published.value, origin.published) == ("GMM, best", 153.7, None)
    assert by_row(entries, "gmm components=64").combined.obtained > chosen.combined.obtained


def test_selection_waits_for_pending_variants_and_passes_over_failed_ones(assembled):
    results, plan, _, _ = assembled
    name = "patches-check"
    experiment = synthetic.experiments()[name]
    cell = next(c for c in plan.cells[name] if c.row == "gmm components=64" and c.column == "validation")
    for run in cell.runs:
        synthetic.write_run(results, plan.runs[run], "failed", "diverged at step 1")
    archive = Archive(results / "demo", results.parent / "data")
    chosen = by_row(build_entries(plan, name, experiment, archive, results / "published"), "gmm-best")
    assert chosen.variant == "components=16, chosen on validation"
    assert "gmm components=64 failed" in chosen.reason
    (results / "demo" / "runs" / cell.runs[0] / "manifest.json").unlink()
    (results / "demo" / "runs" / cell.runs[1] / "manifest.json").unlink()
    archive = Archive(results / "demo", results.parent / "data")
    chosen = by_row(build_entries(plan, name, experiment, archive, results / "published"), "gmm-best")
    assert (chosen.status, chosen.verdict, chosen.published.value) == ("pending", "pending", 153.7)
    assert "gmm components=64" in chosen.reason


def test_refusals_missing_metrics_and_values_that_are_not_finite(assembled):
    results, plan, _, _ = assembled
    cells = [c for c in plan.cells["estimators-check"] if c.row == "rbm" and c.evaluation_name == "ais"]
    for evaluation in cells[0].evaluations:
        synthetic.write_evaluation(results, plan.evaluations[evaluation], status="refused", reason="too many bits")
    for evaluation in cells[1].evaluations:
        synthetic.write_evaluation(results, plan.evaluations[evaluation], [synthetic.number("other", 1.0)])
    for evaluation in cells[2].evaluations:
        synthetic.write_evaluation(results, plan.evaluations[evaluation], [synthetic.number(LL, None)])
    archive = Archive(results / "demo", results.parent / "data")
    entries = build_entries(
        plan, "estimators-check", synthetic.experiments()["estimators-check"], archive, results / "published"
    )
    refused, missing, endless = (by_row(entries, "rbm", cell.column) for cell in cells[:3])
    assert (refused.status, refused.verdict, refused.reason) == ("refused", "failed", "too many bits")
    assert (missing.status, missing.verdict) == ("failed", "failed")
    assert "gave other, and no 'log_likelihood'" in missing.reason
    assert "not finite" in endless.reason


def test_budget_that_differs_never_compares(results):
    changed = dict(synthetic.ESTIMATORS, budgets={"demo": {"datasets": [{"name": "digits"}], "differs": "other data"}})
    experiments = {"estimators-check": Experiment.model_validate(changed)}
    plan = make_plan(synthetic.params(), experiments)
    synthetic.write_everything(results, plan)
    archive = Archive(results / "demo", results.parent / "data")
    entries = build_entries(plan, "estimators-check", *experiments.values(), archive, results / "published")
    entry = by_row(entries, "rbm", "exact")
    assert (entry.verdict, entry.reason) == ("protocol differs", "other data")


def test_paired_table_averages_seeds_and_reports_what_is_missing(assembled):
    _, _, archive, rows = assembled
    entries = rows["patches-check"]
    records = {r["row"]: r for r in paired.paired_records(entries, "gaussian", "test", archive)}
    assert "gaussian" not in records
    record, entry = records["gmm components=16"], by_row(entries, "gmm components=16")
    expected = entry.combined.obtained - by_row(entries, "gaussian").combined.obtained
    assert record["difference"] == pytest.approx(expected)
    assert (record["n_seeds"], record["se_over"], record["n_groups"], record["reason"]) == (2, "groups", 20, "")
    outcome = entry.outcomes[1]
    archive.blob(archive.evaluation(outcome.run, outcome.evaluation), "per_example").unlink()
    records = {r["row"]: r for r in paired.paired_records(entries, "gaussian", "test", archive)}
    assert records["gmm components=16"]["difference"] is None
    assert "not on this machine" in records["gmm components=16"]["reason"]
    assert records["gmm components=4"]["reason"] == ""


def test_collected_ledger_counts_verdicts_and_keeps_done_cells(assembled):
    results, _, _, rows = assembled
    experiments = synthetic.experiments()
    with pytest.raises(UserError, match="dgmbench assemble estimators-check"):
        ledger.collect(results, synthetic.params(), experiments)
    assert ledger.without_tables(results, synthetic.params(), experiments) == list(experiments)
    for name in experiments:
        assemble(name, synthetic.params(), experiments, results, results.parent / "data")
    path = ledger.collect(results, synthetic.params(), experiments)
    collected = ledger.read_csv(path)
    assert len(collected) == sum(len(ledger.records(entries)) for entries in rows.values())
    metrics = json.loads((results / "demo" / "metrics.json").read_text())
    assert "rbm | exact | log_likelihood" in metrics["estimators-check"]
    assert not any(key.startswith("vae") for key in metrics["estimators-check"])
    summary = (results / "demo" / "ledger.md").read_text()
    assert f"| all | {len(collected)} |" in summary
    assert ledger.without_tables(results, synthetic.params(), experiments) == []
    links = re.findall(r"\]\(([^)]+)\)", summary)
    figures = {f"figures/{name}{suffix}.png" for name in experiments for suffix in FIGURES}  # none is drawn here
    assert set(links) == figures | {"ledger.csv"} | {f"tables/{name}.md" for name in experiments}
    assert all((results / "demo" / link).is_file() for link in set(links) - figures)
    assert "diverged at step 40" in summary


def test_provenance_finds_a_cell_by_row_or_label_and_names_the_nearest(assembled):
    results, plan, _, rows = assembled
    experiments = synthetic.experiments()
    assemble("estimators-check", synthetic.params(), experiments, results, results.parent / "data")
    found = provenance.find(results, "demo", "estimators-check", "rbm", "ais temperatures=1000 chains=10")
    (cell,) = found["cells"].values()
    assert [seed["value"] for seed in cell["seeds"]] == [
        outcome.value for outcome in by_row(rows["estimators-check"], "rbm", "ais temperatures=1000 chains=10").outcomes
    ]
    assert set(found["runs"]) == {seed["run"] for seed in cell["seeds"]}
    run = plan.runs[cell["seeds"][0]["run"]]
    assert found["runs"][run.id]["run"] == asdict(run) | {"id": run.id, "dataset_key": run.dataset_key}
    assert provenance.find(results, "demo", "estimators-check", "RBM, 8 hidden", "exact")["cells"]
    text = provenance.describe(found)
    for expected in ("effective_sample_size", "temperatures 1000", "0123456789ab", "ab" * 32, "seed 2", "train"):
        assert expected in text
    with pytest.raises(UserError, match="did you mean 'rbm'"):
        provenance.find(results, "demo", "estimators-check", "rbn", "exact")
    with pytest.raises(UserError, match="did you mean 'exact'"):
        provenance.find(results, "demo", "estimators-check", "rbm", "exat")
    with pytest.raises(UserError, match="known: estimators-check"):
        provenance.find(results, "demo", "nothing", "rbm", "exact")


def test_rows_own_note_on_the_protocol_reaches_the_verdict(assembled):
    _, _, _, rows = assembled
    entry = replace(by_row(rows["estimators-check"], "rbm", "exact"), differs="300 epochs, not 3,280")
    assert (entry.verdict, entry.reason) == ("protocol differs", "300 epochs, not 3,280")
