"""What every model must prove, whichever it is: models are found by the registry, never named here.

A model's file declares `SMOKE`, overrides of its Spec that train in a moment.
"""

import contextlib
import importlib
import math
import re
from collections import Counter

import pytest
import torch
from contract import models as made
from pydantic import ValidationError

from dgmbench.data.prepared import VALUES
from dgmbench.models import base
from dgmbench.models.registry import model_modules
from dgmbench.training.session import Session

NAMES, PAIRS, assert_same, fitted, fresh = made.NAMES, made.PAIRS, made.assert_same, made.fitted, made.fresh
having, outputs, rng, tiny, trained = made.having, made.outputs, made.rng, made.tiny, made.trained


@pytest.mark.parametrize("name", NAMES)
def test_a_model_file_has_its_shape(name):
    module = importlib.import_module(model_modules()[name])
    text = module.__doc__
    assert "Reference" in text, "the docstring names its reference"
    assert "=" in text[: text.index("Reference")], "the docstring opens with the equation"
    assert re.search(r"(19|20)\d\d|Bishop", text), "a reference has its year"
    assert module.Model.Spec is module.Spec
    assert module.Model.accepts
    assert module.Model.accepts <= set(VALUES)
    assert base.capabilities(module.Model), "a model without a capability can be asked nothing"
    for field_name, field in module.Spec.model_fields.items():
        assert field.description, f"{field_name} has no description"


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_has_defaults_and_refuses_unknown_keys(name):
    module = importlib.import_module(model_modules()[name])
    module.Spec()
    assert set(module.SMOKE) <= set(module.Spec.model_fields)
    with pytest.raises(ValidationError):
        module.Spec(**module.SMOKE, no_such_key=1)


@pytest.mark.parametrize(("name", "values"), PAIRS)
def test_state_holds_all_that_the_capabilities_need(name, values):
    model, again = fitted(name, values), fresh(name, values)
    state = model.state()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    again.load_state({key: value.clone() for key, value in state.items()})
    assert_same(again.state(), state)
    assert_same(outputs(again, tiny(values)), outputs(model, tiny(values)))


@pytest.mark.parametrize(("name", "values"), PAIRS)
def test_same_seed_same_bits(name, values):
    session = Session(rng(1))
    model = trained(name, values, session)
    assert_same(model.state(), fitted(name, values).state())
    assert all(math.isfinite(value) for row in session.history for value in row.values())


@pytest.mark.parametrize(("name", "values"), PAIRS)
def test_outputs_have_their_shapes(name, values):
    data, found = tiny(values), outputs(fitted(name, values), tiny(values))
    n, d = len(data.test), data.dimension
    shapes = {"log_weights": (3, n), "sample": (7, d), "posterior_mode": (n, d), "posterior_mean": (n, d)}
    for key, value in found.items():
        assert value.shape == shapes.get(key, (n,)), key
        assert bool(value.isfinite().all()), key
    if "assign" in found:
        assert found["assign"].dtype == torch.int64
        assert int(found["assign"].min()) >= 0


@pytest.mark.parametrize(("name", "values"), having(base.Sampler))
def test_samples_live_in_the_data_space_and_come_from_the_generator(name, values):
    model = fitted(name, values)
    x = model.sample(500, rng(4))
    assert x.shape == (500, tiny(values).dimension)
    assert x.dtype == torch.float32
    assert bool(x.isfinite().all())
    if values == "binary":
        assert 0 <= float(x.min()) <= float(x.max()) <= 1
        if isinstance(model, (base.Density, base.LatentVariable, base.Energy)):
            assert set(x.unique().tolist()) <= {0.0, 1.0}, "draws of a distribution over {0, 1}, not its means"
    assert torch.equal(x, model.sample(500, rng(4)))
    assert not torch.equal(x, model.sample(500, rng(5)))


class Killed(Exception):
    pass


class Killer:
    """A progress that kills the training when it has advanced so many times; 0 never does."""

    def __init__(self, after: int = 0):
        self.after, self.advanced = after, 0

    @contextlib.contextmanager
    def task(self, name, *, total, done=0, unit="step"):
        yield self

    def advance(self, by=1):
        self.advanced += by
        if self.after and self.advanced >= self.after:
            raise Killed


class KilledAtRecord(Session):
    """A session that is killed in the middle of a step, after so many records."""

    records = 0

    def record(self, **values):
        super().record(**values)
        self.records -= 1
        if self.records == 0:
            raise Killed


@pytest.mark.parametrize(("name", "values"), PAIRS + [(name, "redrawn") for name, v in PAIRS if v == "binary"])
def test_a_killed_training_resumes_to_the_same_bits(name, values, tmp_path):
    whole_progress = Killer()
    whole = Session(rng(1), progress=whole_progress)
    expected = trained(name, values, whole)
    steps = whole_progress.advanced
    if steps == 0:
        return  # closed form: there is no step at which it could be resumed
    kills = [("advance", at) for at in sorted({1, 2, steps // 2 + 1, steps} & set(range(1, steps + 1)))]
    for kind, at in [*kills, ("record", 1), ("record", min(3, steps)), ("nothing", 0)]:
        options = {"checkpoint_path": tmp_path / f"{kind}-{at}", "checkpoint_seconds": 0.0}
        session = (KilledAtRecord if kind == "record" else Session)(
            rng(1), progress=Killer(at if kind == "advance" else 0), **options
        )
        session.records = at
        if kind == "nothing":  # killed between the last checkpoint and the results
            trained(name, values, session)
        else:
            with pytest.raises(Killed):
                trained(name, values, session)
        resumed = Session(rng(1), **options)
        assert_same(trained(name, values, resumed).state(), expected.state())
        assert resumed.history == whole.history, f"history after a kill at {kind} {at}"


def test_every_kind_of_values_has_a_model():
    assert set(Counter(values for _, values in PAIRS)) == set(VALUES)
