"""Every model that the registry finds, trained on tiny data, and what its capabilities say."""

import functools
import importlib
import math

import numpy as np
import torch

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
