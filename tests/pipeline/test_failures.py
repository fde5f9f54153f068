"""A failure is data: every way in which a run can fail, in one table beside a run that does not."""

import csv
import json

MODEL = '''"""A model that fails.

    p(x) = nothing

Reference: none.
"""

import os
import signal

from dgmbench.models import base
from dgmbench.models.density import gaussian

SMOKE: dict = {}


class Spec(base.ModelSpec):
    pass


class Model(gaussian.Model):
    Spec = Spec

    def fit(self, data, session):
        for step in session.steps(10):
            session.record(loss=1.0 / (step + 1))
            if step == 5:
                BREAK
'''
BROKEN = {
    "diverges": "session.record(loss=float('nan'))",
    "raises": "raise ArithmeticError('no such matrix')",
    "dies": "os.kill(os.getpid(), signal.SIGKILL)",
}


def test_every_failure_is_a_row_and_costs_no_other(make_project, experiments):
    plan = json.loads(json.dumps(experiments["moons"]))
    plan["rows"] = {"gaussian": {"model": "gaussian", "evaluate": ["test"]}}
    plan["rows"] |= {name: {"model": name, "evaluate": ["test"]} for name in BROKEN}
    project = make_project({"moons": plan})
    for name, statement in BROKEN.items():
        path = project.root / "src" / "dgmbench" / "models" / "density" / f"{name}.py"
        path.write_text(MODEL.replace("BREAK", statement))

    done = project.snakemake(ok=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Some jobs failed; the report shows what is there" in said
    assert (project.root / "results/smoke/report/index.html").is_file()

    manifests = [json.loads(path.read_text()) for path in project.results("runs/*/manifest.json")]
    by_model = {manifest["run"]["model"]: manifest for manifest in manifests}
    assert by_model.keys() == {"gaussian", "diverges", "raises"}
    assert by_model["gaussian"]["status"] == "done"
    assert by_model["diverges"]["status"] == by_model["raises"]["status"] == "failed"
    assert by_model["diverges"]["reason"] == "diverged at step 5: loss = nan; last finite values: loss = 0.166667"
    assert by_model["diverges"]["steps"] == 5
    assert by_model["diverges"]["run"]["spec"] == {}
    assert by_model["raises"]["reason"] == "ArithmeticError: no such matrix"
    assert by_model["raises"]["log_tail"][-1] == "ArithmeticError: no such matrix"

    with (project.root / "results/smoke/ledger.csv").open() as stream:
        rows = {row["row"]: row for row in csv.DictReader(stream)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "gaussian": "done",
        "diverges": "failed",
        "raises": "failed",
        "dies": "pending",
    }
    assert "diverged at step 5" in rows["diverges"]["reason"]
    assert "no such matrix" in rows["raises"]["reason"]
    assert float(rows["gaussian"]["obtained"]) < 0
    assert rows["diverges"]["obtained"] == rows["dies"]["obtained"] == ""

    # What is left is the job that died, and what is made from it.
    assert project.pending() == [
        "assemble moons",
        "evaluate dies on toys-two-moons by exact_likelihood",
        "report",
        "train dies on toys-two-moons",
    ]
