"""What an experiment says of selections, published numbers and figures is held against its plan."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from planning import MOONS, PLAN, SMOKE, experiment

from dgmbench import plan_checks
from dgmbench.assemble.entries import build_entries
from dgmbench.assemble.outcomes import Archive
from dgmbench.config import load_experiments
from dgmbench.errors import UserError
from dgmbench.estimators.base import Metric
from dgmbench.params import Params
from dgmbench.runs import make_plan

CELL = {"evaluation": "one", "file": "table", "where": {"model": "gmm", "k": "{components}"}, "value": "nll"}
CELL |= {"spread": "sd", "kind": "exact", "tolerance": 1, "protocol": "as printed"}
COSTS = {
    name: Metric("s", "score", better, "") for name, better in (("seconds", "lower"), ("log_likelihood", "neither"))
}


@pytest.mark.parametrize(
    ("by", "metric", "sentence"),
    [
        ({}, "bound", r"select\.metric: the evaluation 'validation' gives no 'bound'; known: log_likelihood"),
        (
            {"estimator": "em_cost"},
            "log_likelihood",
            r"select\.metric: neither more nor less of 'log_likelihood' is better, so nothing can be chosen by it; "
            r"write one that decides: seconds\.",
        ),
        (
            {"grid": {"examples": [50, 100]}},
            "log_likelihood",
            r"'validation' gives row m components=1 2 values of 'log_likelihood'; 'select' needs exactly one",
        ),
    ],
)
def test_a_selection_that_nothing_decides_is_refused(by, metric, sentence, monkeypatch):
    real = plan_checks.estimator
    costs = SimpleNamespace(METRICS=COSTS)
    monkeypatch.setattr(plan_checks, "estimator", lambda name: costs if name == "em_cost" else real(name))
    evaluations = {
        "test": {"estimator": "exact_likelihood"},
        "validation": {"estimator": "exact_likelihood", "settings": {"split": "validation"}, **by},
    }
    rows = {
        "m": {"model": "gmm", "grid": {"components": [1, 2]}, "evaluate": ["test", "validation"]},
        "best": {"select": {"row": "m", "by": "validation", "metric": metric}},
    }
    with pytest.raises(UserError, match=f"experiment x, row best.*{sentence}"):
        make_plan(SMOKE, {"x": experiment(rows=rows, evaluations=evaluations)})


CHOSEN = {
    "rows": {
        "m": {"model": "gmm", "grid": {"components": [1, 2]}, "evaluate": ["one", "validation"], "seeds": 1},
        "best": {"select": {"row": "m", "by": "validation"}},
    },
    "evaluations": {
        "one": {"estimator": "exact_likelihood"},
        "validation": {"estimator": "exact_likelihood", "settings": {"split": "validation"}},
    },
}


@pytest.mark.parametrize("change", [{"settings": {"split": "test"}}, {"grid": {"split": ["test"]}}])
def test_a_budget_cannot_make_a_selection_choose_on_test(change):
    budget = {"datasets": [MOONS], "evaluations": {"validation": change}}
    make_plan(SMOKE, {"x": experiment(**CHOSEN)})
    with pytest.raises(
        UserError, match=r"row best, select\.by: under the budget smoke 'validation' .* split test, and"
    ):
        make_plan(SMOKE, {"x": experiment(**CHOSEN, budgets={"smoke": budget})})


def test_a_selections_published_number_may_depend_on_the_variant_that_it_chooses(tmp_path):
    def planned(k="{components}", **budget):
        best = {**CHOSEN["rows"]["best"], "published": [{**CELL, "where": {"model": "gmm", "k": k}}]}
        plan = {**CHOSEN, "rows": {**CHOSEN["rows"], "best": best}}
        whole = experiment(**plan, budgets={"smoke": {"datasets": [MOONS], **budget}})
        return whole, make_plan(SMOKE, {"x": whole}, tmp_path)

    (tmp_path / "table.csv").write_text("model,k,nll,sd,kind\ngmm,1,10,0.1,exact\ngmm,2,9,0.2,\n")
    for budget in ({}, {"only": ["best"]}):
        whole, plan = planned(**budget)
        waiting = build_entries(plan, "x", whole, Archive(tmp_path, tmp_path), tmp_path)
        (entry,) = (e for e in waiting if (e.row, e.evaluation_name) == ("best", "one"))
        assert (entry.status, entry.published) == ("pending", None)
    with pytest.raises(UserError, match=r"row best.*'{component}' names .* did you mean 'components'\?"):
        planned("{component}")
    (tmp_path / "table.csv").write_text("model,k,nll,sd,kind\ngmm,1,10,0.1,exact\n")
    with pytest.raises(UserError, match=r"row best.*0 rows .* match {model: gmm, k: 2}"):
        planned()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"file": "tabel"}, r"there is no file .*; did you mean 'table'\?"),
        ({"where": {"modle": "gmm"}}, r"has no column 'modle'; did you mean 'model'\?"),
        ({"where": {"model": "gmn"}}, r"0 rows .* column 'model': did you mean 'gmm'\?"),
        ({"where": {"model": "gmm"}}, r"2 rows .* write one of the columns k, nll, sd, kind under 'where' too"),
        ({"where": {"model": "gmm", "k": "{component}"}}, r"does not have; did you mean 'components'\?"),
        ({"value": "nl"}, r"has no column 'nl'; did you mean 'nll'\?"),
        ({"spread": "sds"}, r"has no column 'sds'; did you mean 'sd'\?"),
        ({"metric": "bound"}, r", published: the evaluation 'one' gives no 'bound'; known: log_likelihood"),
        ({"kind": "estimate"}, r"says of it 'kind: exact', and not 'estimate'; write the same"),
    ],
)
@pytest.mark.parametrize("row", ["m", "other"])
def test_published_numbers_are_looked_up_when_planning(tmp_path, change, sentence, row):
    (tmp_path / "table.csv").write_text("model,k,nll,sd,kind\ngmm,1,10,0.1,exact\ngmm,2,9,0.2,\n")

    def plan(**more):
        cells = [{**CELL, **more}]
        own = {"model": "gmm", "evaluate": ["one"], "published": cells}
        if row == "other":
            own = {"pending": "not ours yet", "published": cells}
        rows = {row: {**own, "grid": {"components": [1]}}}
        evaluations = {"one": {"estimator": "exact_likelihood"}}
        return make_plan(SMOKE, {"x": experiment(rows=rows, evaluations=evaluations)}, tmp_path)

    plan()
    with pytest.raises(UserError, match=f"experiment x, row {row}.*{sentence}"):
        plan(**change)


def test_the_file_of_a_row_that_a_budget_leaves_out_is_looked_up_too(tmp_path):
    rows = {**PLAN["rows"], "away": {"pending": "x", "published": [{**CELL, "evaluation": "test"}]}}
    budgets = {"smoke": {"datasets": [MOONS], "only": ["g"]}}
    with pytest.raises(UserError, match=r"experiment x, row away, published .*: there is no file .*table\.csv"):
        make_plan(SMOKE, {"x": experiment(rows=rows, budgets=budgets)}, tmp_path)


@pytest.mark.parametrize(
    ("figure", "sentence"),
    [
        (
            {"name": "likelihood_bar"},
            r"figure\.name: there is no figure 'likelihood_bar', did you mean 'likelihood_bars'",
        ),
        (
            {"name": "likelihood_bars", "options": {"column": ["test"]}},
            r"figure\.options: column: unknown key; did you mean 'columns'",
        ),
        ({"name": "hyper_parameter_curves"}, r"figure\.options: x: is missing; write 'x: \.\.\.'"),
        (
            {"name": "likelihood_bars", "options": {"columns": ["test examples=50", "tset"]}},
            r"figure\.options\.columns: the experiment has no column 'tset', did you mean 'test'",
        ),
        (
            {"name": "hyper_parameter_curves", "options": {"x": "component"}},
            r"figure\.options\.x: the experiment has no hyper-parameter 'component', did you mean 'components'",
        ),
        (
            {"name": "patch_likelihood", "options": {"metric": "likelihood"}},
            r"figure\.options\.metric: the experiment has no metric 'likelihood', did you mean 'log_likelihood'",
        ),
        (
            {"name": "path_search", "options": {"rows": ["n"]}},
            r"figure\.options\.rows: the experiment has no row 'n', known: g, m, published",
        ),
        (
            {"name": "likelihood_error", "options": {"truth": "test", "work": {"test": ["example", 1]}}},
            r"figure\.options\.work\.test: its grid has no 'example', did you mean 'examples'",
        ),
        (
            {"name": "estimators_against_truth", "options": {"exact": "enumeratoin"}},
            r"figure\.options\.exact: the experiment has no estimator 'enumeratoin', known",
        ),
    ],
)
def test_a_figure_and_its_options_are_checked_when_planning(figure, sentence):
    with pytest.raises(UserError, match=f"experiment x, {sentence}"):
        make_plan(SMOKE, {"x": experiment(figure=figure)})


def test_every_published_number_that_an_experiment_names_is_there():
    root = Path(__file__).parents[1]
    experiments = load_experiments(root / "workflow/experiments")
    for budget in ("smoke", "paper"):
        make_plan(Params(budget=budget), experiments, root / "results/published")


def test_table_1_of_dvae_sharp_is_whole_under_the_papers_budget():
    """192 cells (two datasets, four structures, three K, eight methods), each beside its published number, five seeds,
    1,000,000 updates with a population of 1,000 chains and 40 sweeps, 4,000 draws."""
    root = Path(__file__).parents[1]
    experiments, published = load_experiments(root / "workflow/experiments"), root / "results/published"
    names = ["dvae-table1", "dvae-table1-omniglot"]
    plan = make_plan(Params(budget="paper", experiments=names), experiments, published)
    beside = []
    for name in names:
        for entry in build_entries(plan, name, experiments[name], Archive(root / "nothing", root), published):
            if (entry.evaluation_name, entry.metric) == ("bound", "log_likelihood"):
                assert len({outcome.run for outcome in entry.outcomes}) == 5
                beside.append((entry.dataset, entry.published.value))
    table = pd.read_csv(published / "dvae_sharp_table1.csv")
    assert len(beside) == len(table) == 192
    expected = [("mnist-static" if d == "mnist" else "omniglot-28", -v) for d, v in zip(table.dataset, table.nll_nats)]
    assert sorted(beside) == sorted(expected)
    assert len(plan.runs) == 192 * 5
    settings = {"iterations": 1_000_000, "negative_phase": "population", "chains": 1000, "sweeps": 40}
    for run in plan.runs.values():
        assert {name: run.spec[name] for name in settings} == settings
    assert {e.settings["k"] for e in plan.evaluations.values() if e.estimator == "importance_weighted_ais"} == {4000}
