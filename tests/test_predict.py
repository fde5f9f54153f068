"""Predicted cost: measured jobs scaled by counted work, and an honest nothing where there is none."""

import json

import pytest

from dgmbench.predict import LEAST_RATE, START_SECONDS, Costs
from dgmbench.runs import Evaluation, Run

CERTIFICATE = {"splits": {name: {"rows": 1000, "dimension": 10} for name in ("train", "validation", "test")}}


def run(components: int = 10, iterations: int = 100, **more) -> Run:
    spec = {"components": components, "iterations": iterations}
    values = {
        "spec": spec,
        "dataset": "d",
        "dataset_options": {},
        "dataset_identity": "00000000",
        "seed": 0,
        "code": "c",
    }
    return Run(**{"model": "gmm", **values, **more})


@pytest.fixture
def tree(tmp_path):
    """Writes finished jobs with the seconds that they took."""
    prepared = tmp_path / "prepared" / "d-00000000"
    prepared.mkdir(parents=True)
    (prepared / "certificate.json").write_text(json.dumps(CERTIFICATE))

    def write(job: Run, seconds: float, status: str = "done") -> None:
        folder = tmp_path / "results" / "demo" / "runs" / job.id
        folder.mkdir(parents=True)
        manifest = {
            "run": {"id": job.id, **vars(job)},
            "status": status,
            "files": {"model": {"bytes": 1000}},
            "measured": {"seconds": seconds, "peak_memory_mb": 200.0},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return write


def costs(tmp_path) -> Costs:
    return Costs.measured(tmp_path / "results", tmp_path / "prepared")


def test_the_same_job_costs_what_it_cost(tree, tmp_path):
    tree(run(), 30.0)
    predicted = costs(tmp_path).of_run(run(seed=1))
    assert predicted.seconds == pytest.approx(30.0 + START_SECONDS)
    assert (predicted.memory_mb, predicted.bytes, predicted.basis) == (200.0, 1000, "same spec")


def test_more_components_cost_in_proportion(tree, tmp_path):
    work = 1000 * 100 * 10 * 10**2  # examples x iterations x components x d^2
    seconds = work / (10 * LEAST_RATE)  # a job at ten times the least rate
    tree(run(), seconds)
    predicted = costs(tmp_path).of_run(run(components=40))
    assert predicted.basis == "same data, scaled"
    # One job of a millisecond: the floor under measured seconds is what the rate rests on.
    rate = max(work / max(seconds, 1e-3), LEAST_RATE)
    assert predicted.seconds == pytest.approx(4 * work / rate + START_SECONDS)


def test_nothing_measured_predicts_nothing(tree, tmp_path):
    tree(run(), 30.0, status="failed")
    assert costs(tmp_path).of_run(run()) is None
    evaluation = Evaluation(run().id, "exact_likelihood", {}, "c")
    assert costs(tmp_path).of_evaluation(evaluation, run()) is None


def test_a_damaged_manifest_does_not_stop_a_prediction(tree, tmp_path):
    tree(run(), 30.0)
    broken = tmp_path / "results" / "demo" / "runs" / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    assert costs(tmp_path).of_run(run()) is not None


def test_sizes_come_from_the_options_where_nothing_is_prepared(tree, tmp_path):
    tree(run(), 30.0)
    options = {"train": 2000, "validation": 100, "test": 100}
    elsewhere = run(dataset="toys-rings", dataset_options=options)
    assert costs(tmp_path).rows(vars(elsewhere)) == {**options, "dimension": 2}
    assert costs(tmp_path).of_run(elsewhere).basis == "same model, scaled"
    unknown = run(dataset="mnist-static", dataset_identity="11111111")
    assert costs(tmp_path).rows(vars(unknown)) is None
    assert costs(tmp_path).of_run(unknown) is None, "unscaled, a job on other data would mislead"


def test_runs_of_models_or_specs_that_are_gone_are_left_out(tree, tmp_path):
    tree(run(model="gone"), 30.0)
    tree(run(spec={"no_longer": 1}), 30.0)
    assert not costs(tmp_path).measurements


def test_evaluations_by_estimators_or_settings_that_are_gone_are_left_out(tree, tmp_path):
    tree(run(), 30.0)
    folder = tmp_path / "results" / "demo" / "runs" / run().id
    measured = {"seconds": 1.0, "peak_memory_mb": 200.0}
    for name, estimator, settings in (("a", "gone", {}), ("b", "exact_likelihood", {"no_longer": 1})):
        evaluation = {"run": run().id, "estimator": estimator, "settings": settings, "id": name, "code": "c"}
        result = {"evaluation": evaluation, "status": "done", "files": {}, "measured": measured}
        (folder / f"{name}.json").write_text(json.dumps(result))
    assert not any(key.startswith("evaluate") for key in costs(tmp_path).measurements)
