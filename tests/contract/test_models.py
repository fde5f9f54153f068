"""What every model must prove, whichever it is: models are found by the registry, never named here.

A model's file declares `SMOKE`, overrides of its Spec that train in a moment. Stochastic tests compare at five
standard errors (false alarms: 6e-7 each, two-sided) or at p = 1e-6, under fixed seeds.
"""

import contextlib
import functools
import importlib
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dgmbench.data.prepared import VALUES, Dataset, Split
from dgmbench.models import base
from dgmbench.models.registry import model_class, model_modules
from dgmbench.training.session import Session

NAMES = sorted(model_modules())
PAIRS = [(name, values) for name in NAMES for values in VALUES if values in model_class(name).accepts]
GRID = 301


def having(capability: type, *kinds: str) -> list[tuple[str, str]]:
    return [(n, v) for n, v in PAIRS if issubclass(model_class(n), capability) and (not kinds or v in kinds)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def tiny(values: str) -> Dataset:
    """Strongly dependent data: six noisy copies of one coin, or two correlated reals (squashed for `unit`).

    `redrawn` is binary data that are drawn anew, from grey values, whenever they are taken.
    """
    g, n = np.random.default_rng(20), 300
    if values in ("binary", "redrawn"):
        x = (g.random((n, 1)) < 0.4) ^ (g.random((n, 6)) < 0.15)
        x = abs(x - 0.2) if values == "redrawn" else x
    else:
        x = g.normal(size=(n, 2)) @ np.array([[1.0, 0.9], [0.0, 0.45]])
        x = 1 / (1 + np.exp(-x)) if values == "unit" else x
    x = x.astype(np.float32)
    cuts = {"train": slice(0, 200), "validation": slice(200, 250), "test": slice(250, n)}
    parts = {part: Split(x[cut], binarize=values == "redrawn") for part, cut in cuts.items()}
    return Dataset("tiny", f"tiny-{values}", "binary" if values == "redrawn" else values, x.shape[1:], parts, {})


def fresh(name: str, values: str) -> base.Model:
    module = importlib.import_module(model_modules()[name])
    return module.Model(module.Spec(**module.SMOKE), tiny(values).dimension)


def trained(name: str, values: str, session: Session) -> base.Model:
    model = fresh(name, values)
    model.fit(tiny(values), session)
    return model


@functools.cache
def fitted(name: str, values: str) -> base.Model:
    return trained(name, values, Session(rng(1)))


def outputs(model: base.Model, data: Dataset) -> dict[str, torch.Tensor]:
    """What every capability of the model says about the test split."""
    x, found = data.test.all(), {}
    if isinstance(model, base.Density):
        found["log_prob"] = model.log_prob(x)
    if isinstance(model, base.LatentVariable):
        found["log_weights"] = model.log_weights(x, 3, rng(2))
    if isinstance(model, base.Energy):
        found["log_unnormalised"] = model.log_unnormalised(x)
    if isinstance(model, base.Sampler):
        found["sample"] = model.sample(7, rng(3))
    if isinstance(model, base.Clusterer):
        found["assign"] = model.assign(x)
    if isinstance(model, base.PatchPrior):
        found["posterior_mode"], found["posterior_mean"] = model.posterior_mode(x, 0.1), model.posterior_mean(x, 0.1)
    return found


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype, key
        assert torch.equal(a[key], b[key]), f"{key} is not the same to the bit"


def all_states(bits: int) -> torch.Tensor:
    return ((torch.arange(2**bits)[:, None] >> torch.arange(bits)) & 1).float()


def plane(values: str) -> tuple[torch.Tensor, float]:
    """Points of a square grid eight standard deviations around the data, and the area of a cell."""
    x = tiny(values).train.all().double()
    low, high = x.mean(0) - 8 * x.std(0), x.mean(0) + 8 * x.std(0)
    axes = [torch.linspace(float(a), float(b), GRID, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    return torch.cartesian_prod(*axes), math.prod(float(axis[1] - axis[0]) for axis in axes)


def assert_frequencies(states: torch.Tensor, probability: torch.Tensor) -> None:
    """Pearson's chi-squared over binary states, those expected less than five times pooled; p >= 1e-6."""
    from scipy.stats import chi2

    index = (states.long() << torch.arange(states.shape[1])).sum(1)
    seen = torch.bincount(index, minlength=len(probability)).double()
    expected = probability.double() * len(states)
    rare = expected < 5
    seen = torch.cat([seen[~rare], seen[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    statistic = ((seen - expected).square() / expected.clamp(min=1e-9)).sum()
    assert chi2.sf(float(statistic), len(seen) - 1) >= 1e-6


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


@pytest.mark.parametrize(("name", "values"), having(base.Density, "binary"))
def test_a_mass_function_sums_to_one_and_its_sampler_agrees(name, values):
    model, states = fitted(name, values), all_states(tiny(values).dimension)
    log_prob = model.log_prob(states)
    assert float(log_prob.double().exp().sum()) == pytest.approx(1, rel=1e-6)
    if isinstance(model, base.Sampler):
        assert_frequencies(model.sample(20_000, rng(6)), log_prob.double().exp())


@pytest.mark.parametrize(("name", "values"), having(base.Density, "unit", "real"))
def test_a_density_integrates_to_one_and_its_sampler_agrees(name, values):
    model = fitted(name, values)
    points, area = plane(values)
    log_prob = model.log_prob(points.float()).double()
    probability = log_prob.exp() * area
    assert float(probability.sum()) == pytest.approx(1, abs=1e-3)
    if not isinstance(model, base.Sampler):
        return
    x = model.sample(20_000, rng(6)).double()
    on_grid = torch.cat([points, points.square(), points.prod(1, keepdim=True), log_prob[:, None]], 1)
    on_samples = torch.cat([x, x.square(), x.prod(1, keepdim=True), model.log_prob(x.float()).double()[:, None]], 1)
    expected = (probability[:, None] * on_grid.nan_to_num(neginf=0.0)).sum(0)
    z = (on_samples.mean(0) - expected) / (on_samples.std(0) / math.sqrt(len(x)) + 1e-4)
    assert float(z.abs().max()) < 5


@pytest.mark.parametrize(("name", "values"), having(base.Density))
def test_a_density_beats_the_independent_control_unless_it_is_independent(name, values):
    model, data = fitted(name, values), tiny(values)
    x = data.test.all()
    a, b = x[:20], x[20:40]
    crossed = torch.cat([a[:, :1], b[:, 1:]], 1), torch.cat([b[:, :1], a[:, 1:]], 1)
    interaction = model.log_prob(a) + model.log_prob(b) - model.log_prob(crossed[0]) - model.log_prob(crossed[1])
    if float(interaction.abs().max()) < 1e-6:
        return  # p(x) = p(x_1) p(x_2 ...): dimensions are independent, and there is nothing to beat
    train = data.train.all().double()
    if values == "binary":
        control = torch.distributions.Bernoulli(probs=train.mean(0))
    else:
        control = torch.distributions.Normal(train.mean(0), train.std(0))
    independent = control.log_prob(x.double()).sum(1).mean()
    assert float(model.log_prob(x).mean()) > float(independent) + 0.1


@pytest.mark.parametrize(("name", "values"), having(base.LatentVariable, "binary"))
def test_importance_weights_are_unbiased_and_sum_to_one(name, values):
    model, states = fitted(name, values), all_states(tiny(values).dimension)
    few, many = (model.log_weights(states, k, rng(k)).double().exp() for k in (1000, 4000))
    estimates = [(w.mean(0).sum(), w.var(0).sum() / len(w)) for w in (few, many)]
    for total, variance in estimates:
        assert abs(float(total) - 1) < 5 * math.sqrt(float(variance)) + 1e-5
    spread = few.var(0) / len(few) + many.var(0) / len(many)
    z = (few.mean(0) - many.mean(0)) / (spread.sqrt() + 1e-7)
    assert float(z.abs().max()) < 6  # 64 comparisons with skewed weights: false alarms about 1e-7 where Gaussian


@pytest.mark.parametrize(("name", "values"), having(base.Energy, "binary"))
def test_an_annealed_path_leads_from_its_base_to_the_model(name, values):
    model, data = fitted(name, values), tiny(values)
    states, path = all_states(data.dimension), model.annealed_path(data)
    target = model.log_unnormalised(states).double()
    assert path.sample_base(5, rng(7)).shape == (5, data.dimension)
    torch.testing.assert_close(path.log_unnormalised(states, 1.0).double(), target, rtol=1e-5, atol=1e-5)
    base_terms = path.log_unnormalised(states, 0.0).double()
    assert float(base_terms.logsumexp(0)) == pytest.approx(path.log_z_base, abs=1e-4)
    ratio = path.log_ratio(states, 0.3, 0.7).double()
    expected = (path.log_unnormalised(states, 0.7) - path.log_unnormalised(states, 0.3)).double()
    torch.testing.assert_close(ratio, expected, rtol=1e-4, atol=1e-4)
    assert_frequencies(path.sample_base(20_000, rng(8)), base_terms.softmax(0))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("name", "values"), having(base.Energy, "binary"))
def test_a_transition_leaves_its_temperature_invariant(name, values, beta):
    model, data = fitted(name, values), tiny(values)
    states, path = all_states(data.dimension), model.annealed_path(data)
    probability = path.log_unnormalised(states, beta).double().softmax(0)
    start = states[torch.multinomial(probability, 20_000, replacement=True, generator=rng(9))]
    assert_frequencies(path.step(start, beta, rng(10)), probability)


@pytest.mark.parametrize(("name", "values"), having(base.Energy, "binary"))
def test_the_partition_function_by_enumeration_is_the_sum_over_all_states(name, values):
    model = fitted(name, values)
    enumeration = model.enumeration()
    over_model = model.log_unnormalised(all_states(tiny(values).dimension)).double().logsumexp(0)
    over_side = enumeration.log_term(all_states(enumeration.bits).double()).double().logsumexp(0)
    assert float(over_side) == pytest.approx(float(over_model), abs=1e-4)


@pytest.mark.parametrize(("name", "values"), having(base.PatchPrior))
def test_posteriors_tend_to_the_observation_as_noise_vanishes(name, values):
    model, y = fitted(name, values), tiny(values).test.all()
    for estimate in (model.posterior_mode, model.posterior_mean):
        torch.testing.assert_close(estimate(y, 1e-5), y, rtol=0, atol=1e-3)
    assert float((model.posterior_mean(y, 100.0) - y).abs().max()) > 0


def test_every_kind_of_values_has_a_model():
    assert set(Counter(values for _, values in PAIRS)) == set(VALUES)
