"""Runs that nothing asks for: found by what they mean, deleted only where it is said, and never from under a table."""

from dataclasses import replace

import pytest
import synthetic_results as synthetic

from dgmbench import files
from dgmbench.cleaning import clean, leftovers
from dgmbench.layout import Layout
from dgmbench.runs import make_plan


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with every run that is asked for, and a function that writes one more."""
    synthetic.stand_ins(monkeypatch)
    experiments = synthetic.experiments()
    plan, layout = make_plan(synthetic.params(), experiments), Layout(synthetic.BUDGET, tmp_path)

    def write(run) -> str:
        files.write_yaml(layout.run(run.id) / "spec.yaml", {"id": run.id, **run.document})
        files.write_bytes(layout.blobs(run.id) / "model.safetensors", bytes(1000))
        return run.id

    for run in plan.runs.values():
        write(run)
    return experiments, layout, list(plan.runs.values()), write


def there(layout) -> set[str]:
    return {path.name for room in (layout.run, layout.blobs, layout.work) for path in room("any").parent.glob("*")}


def test_what_is_asked_for_stays_with_its_other_seeds_and_devices(project, capsys):
    experiments, layout, runs, write = project
    write(replace(runs[0], seed=99))
    write(replace(runs[0], device="cuda"))
    before = there(layout)
    assert len(before) == len(runs) + 2
    clean(synthetic.params(), experiments, layout, delete=True)
    assert there(layout) == before
    assert "there is nothing to delete" in capsys.readouterr().out
    # Of one experiment that is asked for now, or of all: what the budget has is what counts.
    one = synthetic.params(experiments=["patches-check"])
    assert leftovers(one, experiments, layout) == []


@pytest.mark.parametrize("change", [{"code": "0ld"}, {"dataset_identity": "2dent"}, {"spec": {"hidden": 3}}])
def test_what_was_superseded_is_named_with_its_size_and_deleted_only_where_it_is_said(project, capsys, change):
    experiments, layout, runs, write = project
    kept, old = there(layout), write(replace(runs[0], **change))
    size = 1000 + (layout.run(old) / "spec.yaml").stat().st_size
    assert [(x.id, x.bytes, x.shown) for x in leftovers(synthetic.params(), experiments, layout)] == [(old, size, ())]
    clean(synthetic.params(), experiments, layout, delete=False)
    said = capsys.readouterr().out
    assert old in said
    assert "1 superseded run, 0.0 MB. Nothing was deleted: " in said
    assert "--yes` deletes what is listed above" in said
    assert there(layout) == kept | {old}
    clean(synthetic.params(), experiments, layout, delete=True)
    assert "Deleted: 1 superseded run, 0.0 MB." in capsys.readouterr().out
    assert there(layout) == kept
    assert not layout.blobs(old).exists()


def test_a_checkpoint_without_a_spec_is_told_by_its_name_and_other_folders_are_nobodys(project):
    experiments, layout, runs, _ = project
    for name in ("0123456789ab", runs[0].id, "notes"):
        files.write_bytes(layout.work(name) / "checkpoint", bytes(10))
    (found,) = leftovers(synthetic.params(), experiments, layout)
    assert (found.id, found.paths, found.bytes) == ("0123456789ab", (layout.work("0123456789ab"),), 10)


def test_what_a_table_still_shows_is_kept_until_the_table_is_made_anew(project, capsys):
    experiments, layout, runs, write = project
    old = write(replace(runs[0], code="0ld"))
    provenance = layout.results / "provenance" / "patches-check.json"
    files.write_json(provenance, {"runs": {old: {}}, "evaluations": {}})
    clean(synthetic.params(), experiments, layout, delete=True)
    said = capsys.readouterr().out
    assert "1 superseded run is kept, with or without --yes, because the tables of patches-check still show it" in said
    assert "once `snakemake --cores all --config budget=demo` has made these tables anew" in said
    assert old in there(layout)
    files.write_json(provenance, {"runs": {runs[0].id: {}}, "evaluations": {}})
    clean(synthetic.params(), experiments, layout, delete=True)
    assert old not in there(layout)


def test_an_evaluation_that_nothing_asks_for_goes_alone_and_from_under_no_table(project, capsys):
    experiments, layout, runs, _ = project
    plan = make_plan(synthetic.params(), experiments)
    asked = next(e for e in plan.evaluations.values() if e.run == runs[0].id)
    old = "0123456789ab"
    for name in (asked.id, old):
        files.write_json(layout.evaluation(runs[0].id, name), {})
        files.write_bytes(layout.blobs(runs[0].id) / f"{name}.npz", bytes(10))
    provenance = layout.results / "provenance" / "patches-check.json"
    files.write_json(provenance, {"runs": {}, "evaluations": {old: {}}})
    clean(synthetic.params(), experiments, layout, delete=True)
    assert "1 superseded evaluation is kept" in capsys.readouterr().out
    files.write_json(provenance, {"runs": {}, "evaluations": {}})
    clean(synthetic.params(), experiments, layout, delete=True)
    assert "Deleted: 1 superseded evaluation, 0.0 MB." in capsys.readouterr().out
    left = {path.name for room in (layout.run, layout.blobs) for path in room(runs[0].id).iterdir()}
    assert left == {"spec.yaml", "model.safetensors", f"{asked.id}.json", f"{asked.id}.npz"}
