"""From experiments to runs: identities that follow exactly what they should, and shared work."""

import itertools
from dataclasses import asdict, replace

import pytest
from planning import MOONS, PLAN, SMOKE, experiment

from dgmbench.errors import UserError
from dgmbench.files import short_hash
from dgmbench.grids import combinations, spell
from dgmbench.params import Params
from dgmbench.runs import PICTURE, Evaluation, Run, make_plan
from dgmbench.training.run import seed_from


def test_rows_columns_and_seeds_multiply_as_they_should():
    plan = make_plan(SMOKE, {"x": experiment()})
    assert len(plan.runs) == 1 + 2 * 2, "one Gaussian; two mixtures of two seeds"
    assert len(plan.evaluations) == 1 * 3 + 4 * 2
    cells = plan.cells["x"]
    assert [c.row for c in cells if c.metric != PICTURE] == ["g", "g", *["m components=1"] * 2, *["m components=2"] * 2]
    assert {c.column for c in cells} == {"test examples=50", "test examples=100", "samples"}
    assert all(len(c.runs) == len(c.evaluations) == (1 if c.model == "gaussian" else 2) for c in cells)
    assert [row.id for row in plan.rows["x"]] == ["g", "m components=1", "m components=2", "published"]


def test_a_row_may_have_the_published_protocol_at_some_values_of_its_grid():
    def planned(**change):
        budget = {"datasets": [MOONS], "rows": {"m": {"differs": "fewer", "as_published": {"components": 2}, **change}}}
        return make_plan(SMOKE, {"x": experiment(budgets={"smoke": budget})}).rows["x"]

    assert [row.differs for row in planned()] == [None, "fewer", None, None]


def test_changes_to_every_row_lie_under_those_of_a_row_and_only_leaves_rows_out():
    rows = {
        "g": PLAN["rows"]["g"],
        "m": {"model": "gmm", "spec": {"iterations": 9}, "evaluate": ["test", "samples"]},
        "published": PLAN["rows"]["published"],
    }
    every_row = {"spec": {"iterations": 2, "start": "random"}, "grid": {"components": [1, 2]}, "protocol": "of all"}
    budget = {"datasets": [MOONS], "only": ["m", "published"], "every_row": {**every_row, "evaluate": ["samples"]}}
    budgets = {"smoke": {**budget, "rows": {"m": {"spec": {"iterations": 3}}}}}
    plan = make_plan(SMOKE, {"x": experiment(rows=rows, budgets=budgets)})
    found = {row.id: row for row in plan.rows["x"]}
    assert list(found) == ["m components=1", "m components=2", "published"]
    assert found["m components=1"].protocol == "of all"
    specs = [run.spec for run in plan.runs.values()]
    assert [(spec["components"], spec["iterations"], spec["start"]) for spec in specs] == [
        (1, 3, "random"),
        (2, 3, "random"),
    ]
    assert {cell.evaluation_name for cell in plan.cells["x"]} == {"samples"}
    assert found["published"].protocol == ""


def test_seeds_of_params_win_over_the_budget_but_not_over_the_row():
    plan = make_plan(Params(budget="smoke", seeds=3), {"x": experiment()})
    seeds = {(run.model, run.seed) for run in plan.runs.values()}
    assert seeds == {("gaussian", 0), ("gmm", 0), ("gmm", 1), ("gmm", 2)}


def test_two_experiments_share_a_run_whatever_their_order():
    one, other = experiment(), experiment(title="another table")
    both = make_plan(SMOKE, {"x": one, "y": other})
    alone = make_plan(SMOKE, {"x": one})
    swapped = make_plan(SMOKE, {"y": other, "x": one})
    assert both.runs == alone.runs
    assert set(both.evaluations) == set(alone.evaluations) == set(swapped.evaluations)


RUN = Run("gmm", {"components": 2, "ridge": 0.1}, "digits", {"seed": 0}, "0123abcd", 0, "fedcba987654")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "gaussian"},
        {"spec": {"components": 3, "ridge": 0.1}},
        {"spec": {"components": 2, "ridge": 0.1000001}},
        {"dataset": "digits-binary"},
        {"dataset_identity": "0123abce"},
        {"seed": 1},
        {"code": "fedcba987655"},
        {"device": "cuda"},
    ],
)
def test_a_runs_id_and_seed_follow_each_part_of_it(change):
    other = replace(RUN, **change)
    assert other.id != RUN.id
    assert seed_from("train", other.id) != seed_from("train", RUN.id)


def test_a_runs_id_is_of_its_content_alone():
    reordered = replace(RUN, spec={"ridge": 0.1, "components": 2})
    assert reordered.id == RUN.id
    assert RUN.id == short_hash({name: value for name, value in asdict(RUN).items() if name != "device"})


def test_training_and_evaluation_draw_from_different_seeds():
    seeds = [seed_from(*identity) for identity in itertools.permutations(("train", "evaluate", RUN.id))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    "change", [{"settings": {"k": 2}}, {"estimator": "ais"}, {"run": "0" * 12}, {"code": "1" * 12}]
)
def test_an_evaluations_id_follows_each_part_of_it(change):
    evaluation = Evaluation(RUN.id, "importance_weighted", {"k": 1}, "0" * 12)
    assert replace(evaluation, **change).id != evaluation.id


def test_an_evaluation_of_fewer_examples_says_which():
    every = Evaluation(RUN.id, "importance_weighted", {"k": 1, "examples": None}, "0" * 12)
    some = replace(every, settings={"k": 1, "examples": 5})
    assert every.id == short_hash(asdict(every))
    assert some.id == short_hash({**asdict(some), "rows": "evenly spaced"})


def test_a_default_written_out_is_the_same_run():
    from dgmbench.models.registry import model_class

    default = model_class("gmm").Spec().iterations
    written = experiment(rows={"m": {"model": "gmm", "spec": {"iterations": default}, "evaluate": ["test"]}})
    left_out = experiment(rows={"m": {"model": "gmm", "evaluate": ["test"]}})
    assert set(make_plan(SMOKE, {"x": written}).runs) == set(make_plan(SMOKE, {"x": left_out}).runs)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"a": {"model": "gmmm", "evaluate": ["test"]}}, r"there is no model 'gmmm': did you mean 'gmm'"),
        (
            {"a": {"model": "gmm", "spec": {"component": 3}}},
            r"component: unknown key; did you mean 'components'",
        ),
        ({"a": {"model": "gmm", "spec": {"components": 0}}}, r"components: input should be greater than or equal to 1"),
        ({"a": {"model": "rbm"}}, r"'rbm' is defined on binary values, and dataset 'toys-two-moons' holds real ones"),
        (
            {"a": {"model": "kmeans", "evaluate": ["test"]}},
            r"asks for the capability Density, and this model has",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(rows, sentence):
    with pytest.raises(UserError, match=sentence):
        make_plan(SMOKE, {"x": experiment(rows=rows)})


def test_several_processes_are_for_models_that_train_in_them():
    rows = {"a": {"model": "gmm", "evaluate": ["test"]}, "b": {"model": "gaussian", "evaluate": ["test"]}}

    def budget(row):
        return {"smoke": {"datasets": [MOONS], "rows": {row: {"processes": 2}}}}

    plan = make_plan(SMOKE, {"x": experiment(rows=rows, budgets=budget("a"))})
    assert sorted((plan.runs[run].model, count) for run, count in plan.processes.items()) == [
        ("gaussian", 1),
        ("gmm", 2),
    ]
    with pytest.raises(UserError, match="'gaussian' trains in one process; remove processes"):
        make_plan(SMOKE, {"x": experiment(rows=rows, budgets=budget("b"))})


def test_unknown_experiments_and_budgets_are_answered():
    with pytest.raises(UserError, match=r"there is no 'xx', did you mean 'x'|known: x"):
        make_plan(Params(budget="smoke", experiments=["xx"]), {"x": experiment()})
    with pytest.raises(UserError, match=r"'x' has no budget 'paper'; write one of: smoke"):
        make_plan(Params(budget="paper", experiments=["x"]), {"x": experiment()})
    with pytest.raises(UserError, match="no experiment has the budget 'paper'"):
        make_plan(Params(budget="paper"), {"x": experiment()})


def test_combinations_and_their_names():
    assert list(combinations({})) == [{}]
    assert [spell(c) for c in combinations({"a": [1, 2], "b": ["x"]})] == ["a=1 b=x", "a=2 b=x"]
