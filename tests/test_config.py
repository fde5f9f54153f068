"""What a person writes is checked before any work, and the answer is the YAML to write instead."""

import copy
import re
from pathlib import Path

import pytest
import yaml

from dgmbench.config import checked, load_experiments, load_params, read_mapping
from dgmbench.errors import UserError
from dgmbench.params import MIRROR_VARIABLE, Params
from dgmbench.runs import make_plan
from dgmbench.schemas import Experiment

EXPERIMENT = {
    "title": "t",
    "document": "d",
    "source": "s",
    "question": "q",
    "rows": {
        "g": {"model": "gaussian", "evaluate": ["test"]},
        "m": {"model": "gmm", "grid": {"components": [1, 2]}, "evaluate": ["test", "validation"]},
        "best": {"select": {"row": "m", "by": "validation"}},
    },
    "evaluations": {
        "test": {"estimator": "exact_likelihood"},
        "validation": {"estimator": "exact_likelihood", "settings": {"split": "validation"}},
    },
    "figure": {"name": "likelihood_bars"},
    "budgets": {"smoke": {"datasets": [{"name": "digits"}], "rows": {"m": {"spec": {"iterations": 2}}}}},
}
PUBLISHED = {
    "evaluation": "test",
    "file": "table",
    "where": {"model": "gmm"},
    "value": "nll",
    "kind": "exact",
    "tolerance": 1,
    "protocol": "as printed",
}
CHOSEN_AMONG_G = {"select": {"row": "g", "by": "validation"}}
ORDER = {"title": "o", "evaluation": "test", "rows": ["m"], "where": {"components": 1}}


def ordered(**changes):
    """EXPERIMENT with a published number and one order, changed."""
    plan = altered("rows", "m", "published", value=[PUBLISHED])
    return {**plan, "orders": [{**ORDER, **changes}]}


def paired(paired_with):
    """EXPERIMENT with a paired comparison."""
    return {**EXPERIMENT, "paired_with": paired_with, "paired_by": "test"}


def altered(*path, value):
    """EXPERIMENT with one place changed; `...` as the value removes it."""
    plan = copy.deepcopy(EXPERIMENT)
    place = plan
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return plan


def test_the_example_is_right():
    assert checked(Experiment, EXPERIMENT, "x.yaml").rows["best"].select.by == "validation"
    assert checked(Experiment, ordered(), "x.yaml").orders[0].where == {"components": 1}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"budgett": "demo"}, r"params\.yaml: budgett: unknown key; did you mean 'budget'\? Write 'budget: demo'"),
        ({"budget": "tiny"}, r"budget: input should be 'smoke', 'demo', 'laptop' or 'paper' \(given: 'tiny'\)"),
        ({"seeds": 0}, r"seeds: input should be greater than or equal to 1 \(given: 0\)"),
        ({"device": "gpu"}, r"device: input should be 'cpu' or 'cuda'"),
        ({"xyzzy": 1}, r"xyzzy: unknown key; known: budget, checkpoint_seconds"),
    ],
)
def test_params_errors_say_what_to_write(values, sentence):
    with pytest.raises(UserError, match=sentence):
        load_params(values)


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (altered("titel", value="x"), r"titel: unknown key; did you mean 'title'\? Write 'title: x'"),
        (altered("rows", "g", "modle", value="rbm"), r"rows\.g\.modle: unknown key; did you mean 'model'"),
        (
            altered("rows", "g", "evaluate", value=["tset"]),
            r"rows\.g\.evaluate: there is no 'tset', did you mean 'test'",
        ),
        (altered("rows", "g", "pending", value="soon"), r"exactly one of 'model', 'select' and 'pending'"),
        (altered("rows", "best", "select", "by", value="test"), r"'test' must have settings: \{split: validation\}"),
        (altered("budgets", "smoke", "rows", value={"gm": {}}), r"budgets\.smoke\.rows: there is no 'gm'"),
        (altered("budgets", "smoke", "only", value=["g", "n"]), r"budgets\.smoke\.only: there is no 'n'"),
        (
            altered("budgets", "smoke", "only", value=["g"]),
            r"'m' is not among the rows of budgets\.smoke\.only: add it",
        ),
        (
            altered("budgets", "smoke", "every_row", value={"evaluate": ["tests"]}),
            r"budgets\.smoke\.every_row\.evaluate: there is no 'tests', did you mean 'test'",
        ),
        (
            altered("budgets", "smoke", "rows", "m", "evaluate", value=["tests"]),
            r"budgets\.smoke\.rows\.m\.evaluate: there is no 'tests', did you mean 'test'",
        ),
        (altered("rows", "best", "select", "row", value=["m", "mm"]), r"rows\.best\.select\.row: there is no 'mm'"),
        (
            altered("rows", "best", "select", "row", value=["m", "best"]),
            r"rows\.best\.select\.row: 'best' is the row itself; write rows that have a model: g, m",
        ),
        (
            altered("rows", value={**EXPERIMENT["rows"], "g": {"pending": "x"}, "best": CHOSEN_AMONG_G}),
            r"rows\.best\.select\.row: 'g' has no model; write rows that have a model: m",
        ),
        (
            altered("rows", "m", "grid", "components", value=[]),
            r"rows\.m\.grid\.components: has no value; write at least one, or leave 'components' out",
        ),
        (
            altered("budgets", "smoke", "rows", "m", value={"grid": {"components": []}}),
            r"budgets\.smoke\.rows\.m\.grid\.components: has no value",
        ),
        (
            altered("evaluations", "test", "grid", value={"examples": []}),
            r"evaluations\.test\.grid\.examples: has no value",
        ),
        (
            altered("budgets", "smoke", "evaluations", value={"test": {"grid": {"examples": []}}}),
            r"budgets\.smoke\.evaluations\.test\.grid\.examples: has no value",
        ),
        (
            altered("rows", "g", "published", value=[{**PUBLISHED, "evaluation": "validation"}]),
            r"rows\.g\.published: row 'g' is not evaluated by 'validation'; add it to .* one that it has: test",
        ),
        (
            altered("rows", "g", "published", value=[PUBLISHED, PUBLISHED]),
            r"rows\.g\.published: 'log_likelihood' of 'test' stands there twice; keep one",
        ),
        (
            altered("rows", "g", "published", value=[{**PUBLISHED, "kind": "bound"}]),
            r"rows\.g\.published\.0\.kind: input should be 'exact', 'lower-bound'",
        ),
        (ordered(rows=["mm"]), r"orders\.0\.rows: there is no 'mm'"),
        (ordered(evaluation="tset"), r"orders\.0\.evaluation: there is no 'tset', did you mean 'test'"),
        (ordered(rows=["g"], evaluation="validation"), r"orders\.0\.evaluation: row 'g' is not evaluated by 'valid"),
        (
            ordered(rows=["g"]),
            r"orders\.0\.rows: row 'g' has no published 'log_likelihood' of 'test'; add it",
        ),
        (ordered(metric="bits"), r"orders\.0\.rows: row 'm' has no published 'bits' of 'test'"),
        (ordered(where={"component": 1}), r"orders\.0\.where, row 'm': there is no 'component', did you mean"),
        (ordered(where={"components": 3}), r"orders\.0\.where\.components: row 'm' has no 3 in its grid, but 1, 2"),
        (ordered(title="m"), r"orders\.0\.title: 'm' is the name of a row; write another"),
        (
            {**ordered(), "orders": [ORDER, {**ORDER, "where": {"components": 2}}]},
            r"orders\.0\.title: 'o' is the title of two orders; write another",
        ),
        (ordered(rows=["m", "m"]), r"orders\.0\.rows: 'm' stands there twice; keep one"),
        (
            {
                **ordered(rows=["m", "p"]),
                "rows": {**ordered()["rows"], "p": {"pending": "x", "published": [PUBLISHED]}},
            },
            r"orders\.0\.rows: row 'p' is pending, and has no number that could be ordered; take it out",
        ),
        (
            altered("budgets", "smoke", "rows", "m", value={"as_published": {"component": 1}}),
            r"budgets\.smoke\.rows\.m\.as_published, row 'm': there is no 'component', did you mean 'components'",
        ),
        (
            altered("budgets", "smoke", "rows", "m", value={"as_published": {"components": 999}}),
            r"budgets\.smoke\.rows\.m\.as_published\.components: row 'm' has no 999 in its grid, but 1, 2",
        ),
        (
            altered(
                "budgets", "smoke", "rows", "m", value={"grid": {"components": [3]}, "as_published": {"components": 1}}
            ),
            r"as_published\.components: row 'm' has no 1 in its grid, but 3",
        ),
        (
            altered("budgets", "smoke", "every_row", value={"as_published": {"components": 1}}),
            r"every_row\.as_published: rows have grids of their own; write it under budgets\.smoke\.rows",
        ),
        (altered("budgets", "smoke", "only", value=[]), r"budgets\.smoke\.only: has no value; write at least one, or"),
        (altered("rows", "g", "evaluate", value=[]), r"rows\.g\.evaluate: has no value; write at least one, or leave"),
        (
            altered("budgets", "smoke", "rows", "m", value={"evaluate": []}),
            r"budgets\.smoke\.rows\.m\.evaluate: has no value; write at least one, or leave 'evaluate' out",
        ),
        (altered("evaluations", "test", "metrics", value=[]), r"evaluations\.test\.metrics: has no value"),
        (altered("budgets", "smoke", "datasets", value=[]), r"budgets\.smoke\.datasets: .*at least 1 item"),
        (altered("figure", value=...), r"figure: is missing; write 'figure: \.\.\.'"),
        (altered("paired_with", value="g"), r"both 'paired_with' and 'paired_by', or neither"),
        (paired("n"), r"paired_with: there is no 'n', known: best, g, m"),
        (paired({"component": 1}), r"paired_with: there is no 'component', did you mean 'components'"),
        (paired({"components": 7}), r"paired_with\.components: no row has 7 in its grid, but 1, 2"),
        (paired({}), r"paired_with: has no value; write at least one, or leave it"),
    ],
)
def test_experiment_errors_name_the_place_and_what_to_write(plan, sentence):
    with pytest.raises(UserError, match=sentence):
        checked(Experiment, plan, "x.yaml")


def test_the_readmes_selection_and_order_are_right():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = (
        yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "orders:" in block
    )
    row = {"model": "gmm", "evaluate": ["test", "validation"], "grid": {"components": [100, 200]}}
    rows = {name: {**row, "published": [PUBLISHED]} for name in ("gmm", "student", "deep")}
    plan = {**EXPERIMENT, "rows": rows | example["rows"], "orders": example["orders"]}
    plan["budgets"] = {"smoke": {"datasets": [{"name": "digits"}]}}
    assert checked(Experiment, plan, "README.md").rows["best-mixture"].select.row == ["gmm", "student"]


def test_the_readmes_own_table_can_be_planned():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = (b for b in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "my-dvae" in b)
    experiment = checked(Experiment, yaml.safe_load(example), "README.md")
    plan = make_plan(load_params({"budget": "smoke", "experiments": ["my-dvae"]}), {"my-dvae": experiment})
    assert len(plan.runs) == 8
    assert {run.spec["groups"] for run in plan.runs.values()} == {2}


def test_a_key_that_is_written_twice_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("title: a\nrows:\n  one: {label: a}\n  one: {label: b}\n")
    with pytest.raises(UserError, match=r"line 4, column 3\) is not YAML: 'one' is written twice; keep one of the two"):
        read_mapping(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("? [a, b]\n: c\n")
    with pytest.raises(UserError, match="is not YAML: found unhashable key"):
        read_mapping(tmp_path / "x.yaml")


def test_a_sentence_ends_once():
    for name, ending in (("tset", "did you mean 'test'?"), ("xyzzy", "known: test, validation.")):
        with pytest.raises(UserError) as error:
            checked(Experiment, altered("rows", "g", "evaluate", value=[name]), "x.yaml")
        assert str(error.value).endswith(f", {ending}")


def test_budgets_that_change_every_row_and_the_rows_of_a_selection_count_for_what_a_row_has():
    plan = ordered(rows=["best"], where={"components": 3})
    plan["rows"]["best"]["published"] = [PUBLISHED]
    plan["budgets"]["smoke"]["every_row"] = {"grid": {"components": [3]}}
    assert checked(Experiment, plan, "x.yaml").grid_of("best") == {"components": [1, 2, 3]}
    plan["rows"]["g"]["published"] = [{**PUBLISHED, "evaluation": "validation"}]
    plan["budgets"]["smoke"]["rows"]["g"] = {"evaluate": ["validation"]}
    assert checked(Experiment, plan, "x.yaml").evaluations_of("g") == {"test", "validation"}


def test_several_mistakes_are_all_said():
    with pytest.raises(UserError) as error:
        checked(Params, {"budgett": "demo", "seeds": -1}, "params.yaml")
    assert "budgett" in str(error.value)
    assert "seeds" in str(error.value)


def test_yaml_that_does_not_parse_names_the_line(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("budget: demo\nseeds: [1\n")
    with pytest.raises(UserError, match=r"line 3, column 1\) is not YAML"):
        read_mapping(path)
    path.write_text("- a\n")
    with pytest.raises(UserError, match="must hold 'name: value' lines"):
        read_mapping(path)


def test_mirror_comes_from_the_environment_and_params_win(monkeypatch):
    monkeypatch.setenv(MIRROR_VARIABLE, "/from/environment")
    assert load_params({}).mirror == "/from/environment"
    assert load_params({"mirror": "/from/params"}).mirror == "/from/params"
    monkeypatch.delenv(MIRROR_VARIABLE)
    assert load_params({"mirror": None}).mirror is None


def test_two_experiments_of_one_name_are_refused(tmp_path):
    for paper in ("a", "b"):
        path = tmp_path / paper / "x.yaml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(EXPERIMENT))
    with pytest.raises(UserError, match="two experiments are called 'x'"):
        load_experiments(tmp_path)
    with pytest.raises(UserError, match="holds no experiments"):
        load_experiments(tmp_path / "a")
