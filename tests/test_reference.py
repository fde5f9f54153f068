"""The generated files agree with the schemas, and a drift is shown as a diff."""

import json
import re
from pathlib import Path

import pytest

from dgmbench import reference
from dgmbench.errors import UserError
from dgmbench.params import Params
from dgmbench.schemas import Experiment

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _in_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", sorted(map(str, reference.generated())))
def test_generated_file_agrees_with_the_schemas(path):
    assert (ROOT / path).read_text() == reference.generated()[Path(path)], "run 'dgmbench schemas'"


def test_drift_is_shown_as_a_diff(monkeypatch, tmp_path):
    drifted = tmp_path / "params.default.yaml"
    drifted.write_text("budget: laptop\n")
    monkeypatch.setattr(reference, "generated", lambda: {drifted: "budget: demo\n"})
    with pytest.raises(UserError, match=r"-budget: laptop\n\+budget: demo"):
        reference.write(check=True)
    assert drifted.read_text() == "budget: laptop\n"
    reference.write(check=False)
    assert drifted.read_text() == "budget: demo\n"


def test_reference_names_every_setting_and_everything_found_by_folder():
    from dgmbench.data.catalogue import entries
    from dgmbench.estimators.registry import estimator_modules
    from dgmbench.models.registry import model_modules

    page = (ROOT / "docs/reference.md").read_text()
    for name in Params.model_fields:
        assert f"| `{name}` |" in page
    for name in [*model_modules(), *estimator_modules(), *entries()]:
        assert f"\n### {name}\n" in page


def test_reference_gives_every_field_of_an_experiments_schemas_and_every_figure_with_its_options():
    from dgmbench.assemble.figures.registry import figure, figure_modules

    page = (ROOT / "docs/reference.md").read_text()
    for schema in (Experiment, *reference.EXPERIMENT_PARTS.values()):
        for name, field in schema.model_fields.items():
            assert field.description, (schema, name)
            assert f"| `{name}` |" in page
    used = set(re.findall(r"#/\$defs/(\w+)", json.dumps(Experiment.model_json_schema())))
    assert used == {schema.__name__ for schema in reference.EXPERIMENT_PARTS.values()}
    for name in figure_modules():
        section = page.split("\n## Figures")[1].split(f"\n### {name}\n")[1].split("\n### ")[0]
        assert all(f"| `{option}` |" in section for option in figure(name).Options.model_fields)


def test_defaults_are_shown_as_they_are_written():
    page = (ROOT / "docs/reference.md").read_text()
    assert "| `every_row` | RowChange | `{}` |" in page
    assert "evaluate=None" not in page


def test_readme_block_is_replaced_and_nothing_else(monkeypatch, tmp_path):
    ledger = tmp_path / "ledger.csv"
    ledger.write_text(
        "experiment,row,dataset,variant,metric,kind,unit,obtained,test_se,estimator_se,seed_sd,n_seeds,published,"
        "published_spread,verdict,status,published_protocol,column\n"
        "x,gaussian,d,,log_likelihood,exact,nats,96.5,3.0,0.0,,1,96.67,0.25,reproduced,unconverged,as printed,test\n"
        "x,best,d,k=2,log_likelihood,exact,nats,96.6,3.0,0.0,,1,96.67,,reproduced,done,as printed; unverified,test\n"
        "x,gmm k=2,d,k=2,log_likelihood,exact,nats,96.6,3.0,0.0,,1,96.67,,reproduced,done,as printed,test\n"
        "x,gmm k=3,d,k=3,log_likelihood,exact,nats,96.6,3.0,0.0,,1,96.67,,reproduced,done,as printed,test\n"
        "x,gmm k=3,d,k=3,log_likelihood,exact,nats,96.6,3.0,0.0,,1,96.67,,reproduced,done,as printed,test examples=9\n"
        "x,mixture,d,k=2,log_likelihood,exact,nats,100.0,3.0,0.0,0.5,2,,,not published,done,,test\n"
    )
    monkeypatch.setattr(reference, "LEDGER", ledger)
    text = "before\n<!-- ledger:begin, written -->\nold\n<!-- ledger:end -->\nafter\n"
    page = reference._readme(text)
    assert page.startswith("before\n")
    assert page.endswith("<!-- ledger:end -->\nafter\n")
    assert "old" not in page
    assert "| d | x: `gaussian` | log likelihood (exact, nats) | 96.50 (test s.e. 3; 1 seed) |" in page
    assert "| 96.67 ± 0.25 | reproduced (unconverged) |" in page
    assert "| d | x: `best` (k=2) |" in page
    assert "| d | x: `gmm k=2` |" in page
    assert "| d | x: `gmm k=3`, test |" in page
    assert "| d | x: `gmm k=3`, test examples=9 |" in page
    assert page.count("(unverified)") == 1
    assert "mixture" not in page
