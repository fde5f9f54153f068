"""A small experiment on made-up data, to be planned."""

import copy

from dgmbench.params import Params
from dgmbench.schemas import Experiment

MOONS = {"name": "toys-two-moons", "options": {"train": 300, "validation": 100, "test": 100}}
PLAN = {
    "title": "t",
    "document": "d",
    "source": "s",
    "question": "q",
    "rows": {
        "g": {"model": "gaussian", "evaluate": ["test", "samples"], "seeds": 1},
        "m": {"model": "gmm", "grid": {"components": [1, 2]}, "evaluate": ["test"]},
        "published": {"pending": "not ours yet"},
    },
    "evaluations": {
        "test": {"estimator": "exact_likelihood", "grid": {"examples": [50, 100]}},
        "samples": {"estimator": "samples"},
    },
    "figure": {"name": "likelihood_bars"},
    "budgets": {"smoke": {"datasets": [MOONS], "seeds": 2}},
}
SMOKE = Params(budget="smoke")


def experiment(**changes) -> Experiment:
    return Experiment.model_validate({**copy.deepcopy(PLAN), **changes})
