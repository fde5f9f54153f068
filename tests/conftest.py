"""Results made up for three experiments, and what is assembled from them without drawing."""

import pytest
import synthetic_results as synthetic

from dgmbench.assemble import experiment as experiment_module
from dgmbench.assemble.entries import build_entries
from dgmbench.assemble.outcomes import Archive
from dgmbench.runs import make_plan


@pytest.fixture
def results(tmp_path, monkeypatch):
    synthetic.stand_ins(monkeypatch)
    # Figures have tests of their own, and take longer than everything here together.
    monkeypatch.setattr(experiment_module, "draw_all", lambda *figures: ([], {}))
    return tmp_path / "results"


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
