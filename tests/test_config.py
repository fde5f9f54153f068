"""What a person writes is checked before any work, and the answer is the YAML to write instead."""

import copy

import pytest
import yaml

from dgmbench.config import checked, load_experiments, load_params, read_mapping
from dgmbench.errors import UserError
from dgmbench.schemas import MIRROR_VARIABLE, Experiment, Params

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
        (altered("budgets", "smoke", "datasets", value=[]), r"budgets\.smoke\.datasets: .*at least 1 item"),
        (altered("figure", value=...), r"figure: is missing; write 'figure: \.\.\.'"),
        (altered("paired_with", value="g"), r"both 'paired_with' and 'paired_by', or neither"),
    ],
)
def test_experiment_errors_name_the_place_and_what_to_write(plan, sentence):
    with pytest.raises(UserError, match=sentence):
        checked(Experiment, plan, "x.yaml")


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
