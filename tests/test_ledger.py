"""The ledger: statuses, selections, published numbers, paired differences, provenance."""

import copy
import json
import math
import re
from dataclasses import asdict, replace

import pytest
import synthetic_results as synthetic

from dgmbench.assemble import ledger, paired, provenance
from dgmbench.assemble.entries import build_entries
from dgmbench.assemble.experiment import assemble
from dgmbench.assemble.outcomes import Archive
from dgmbench.errors import UserError
from dgmbench.files import read_json, write_json
from dgmbench.report.site import build
from dgmbench.runs import make_plan
from dgmbench.schemas import Experiment
from dgmbench.workflow import FIGURES

LL = synthetic.LL


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


def by_row(entries, row, column="test"):
    return next(e for e in entries if e.row == row and e.column == column and e.metric)


def test_columns_are_in_the_promised_order(assembled):
    _, _, _, rows = assembled
    text = ledger.to_csv(ledger.records(rows["estimators-check"]))
    assert text.splitlines()[0] == (
        "experiment,dataset,model,variant,metric,unit,kind,obtained,test_se,estimator_se,seed_sd,n_seeds,published,"
        "published_spread,verdict,status,reason,run_ids,row,column,control,protocol,published_kind,published_source,"
        "published_protocol,converged,bits_per_pixel,published_tolerance"
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
    later = ("bits_per_pixel", "published_tolerance")
    path.write_text(_without(records, *later))
    assert all(name not in path.read_text() for name in later)
    assert ledger.read_csv(path) == [record | dict.fromkeys(later) for record in records]


def _without(records, *left_out):
    columns = [name for name in ledger.COLUMNS if name not in left_out]
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


def test_selection_looks_through_several_rows(assembled):
    results, _, _, _ = assembled
    document = copy.deepcopy(synthetic.PATCHES)
    document["rows"]["larger"] = {**document["rows"]["gmm"], "grid": {"components": [128]}}
    document["rows"]["gmm-best"]["select"]["row"] = ["gmm", "larger"]
    experiment = Experiment.model_validate(document)
    plan = make_plan(synthetic.params(experiments=["patches-check"]), {"patches-check": experiment})
    for cell in plan.cells["patches-check"]:
        if cell.row_name == "larger" and cell.metric:
            for run, evaluation in zip(cell.runs, cell.evaluations):
                synthetic.write_run(results, plan.runs[run])
                synthetic.write_evaluation(results, plan.evaluations[evaluation], [synthetic.number(LL, 999.0)])
    archive = Archive(results / "demo", results)
    chosen = by_row(build_entries(plan, "patches-check", experiment, archive, results / "published"), "gmm-best")
    assert chosen.variant == "components=128, chosen on validation"
    assert len(chosen.selected) == 5


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
    assert record["seed_se"] is None  # of a single Gaussian there is one training
    outcome = entry.outcomes[1]
    archive.blob(archive.evaluation(outcome.run, outcome.evaluation), "per_example").unlink()
    records = {r["row"]: r for r in paired.paired_records(entries, "gaussian", "test", archive)}
    assert records["gmm components=16"]["difference"] is None
    assert "not on this machine" in records["gmm components=16"]["reason"]
    assert records["gmm components=4"]["reason"] == ""


def test_rows_of_a_grid_are_compared_with_their_own_number_at_one_of_its_values(assembled):
    _, _, archive, rows = assembled
    entries = rows["patches-check"]
    records = paired.paired_records(entries, {"components": 4}, "test", archive)
    assert {r["reference"] for r in records} == {"gmm components=4"}
    assert "gmm components=16" in {r["row"] for r in records}
    assert not {"gmm components=4", "gaussian", "independent"} & {r["row"] for r in records}
    sides = [by_row(entries, f"gmm components={n}").combined for n in (16, 4)]
    record = next(r for r in records if r["row"] == "gmm components=16")
    assert record["difference"] == pytest.approx(sides[0].obtained - sides[1].obtained)
    assert all(side.seed_sd > 0 for side in sides)
    assert record["seed_se"] == pytest.approx(math.sqrt(sum(side.seed_sd**2 / 2 for side in sides)))
    # Where the reference row has more than one number beside another's, none of them is taken.
    record = next(r for r in paired.paired_records(entries, "gmm", "test", archive) if r["row"] == "gaussian")
    assert record["difference"] is None
    assert record["reason"] == "the reference row has 4 values of log_likelihood beside this one"


def test_collected_ledger_counts_verdicts_and_keeps_done_cells(assembled):
    results, _, _, rows = assembled
    experiments = synthetic.experiments()
    with pytest.raises(UserError, match="`dgmbench assemble estimators-check --budget demo` first"):
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
    figures = {f"figures/{name}{suffix}.svg" for name in experiments for suffix in FIGURES}  # none is drawn here
    assert set(links) == figures | {"ledger.csv"} | {f"tables/{name}.md" for name in experiments}
    assert all((results / "demo" / link).is_file() for link in set(links) - figures)
    assert "diverged at step 40" in summary


def test_a_picture_of_no_samples_is_not_shown(assembled):
    results, experiments = assembled[0], synthetic.experiments()
    for name in experiments:
        assemble(name, synthetic.params(), experiments, results, results.parent / "data")
    path = results / "demo" / "provenance" / "patches-check.json"
    shown = read_json(path)
    shown["cells"] = {key: cell for key, cell in shown["cells"].items() if cell["metric"]}
    write_json(path, shown)
    ledger.collect(results, synthetic.params(), experiments)
    summary = (results / "demo" / "ledger.md").read_text()
    assert "figures/estimators-check-samples.svg" in summary
    assert "figures/patches-check-samples.svg" not in summary
    assert "figures/patches-check.svg" in summary
    (results / "demo" / "figures").mkdir(exist_ok=True)
    for name in experiments:
        (results / "demo" / "figures" / f"{name}-samples.svg").write_text("<svg/>")
    page = build(synthetic.params(), experiments, results).read_text()
    assert page.count("<figcaption>Samples of the first seed") == 1


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
    found["runs"][run.id]["run"]["spec"]["decided_later"] = None
    assert "decided_later" not in provenance.describe(found)
    del found["runs"][run.id]["run"]["spec"]["decided_later"]
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
