"""Parzen windows and sample arrays against sums written out, with models whose answer is known."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from scipy.special import logsumexp

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import parzen, samples
from dgmbench.estimators.base import Workbench
from dgmbench.models.base import Sampler


class Normal(Sampler):
    """A sampler of N(0, I): (n, 2)."""

    def sample(self, n, generator):
        return torch.randn(n, 2, generator=generator)


class Broken(Sampler):
    def sample(self, n, generator):
        return torch.full((n, 2), torch.nan)


def dataset() -> Dataset:
    g = np.random.default_rng(0)
    parts = {name: Split(g.normal(size=(n, 2)).astype(np.float32)) for name, n in (("validation", 150), ("test", 120))}
    return Dataset("made", "made", "real", (2,), {"train": parts["test"], **parts}, {})


def bench(seed: int = 4) -> Workbench:
    return Workbench(torch.Generator().manual_seed(seed))


def window(x: np.ndarray, centres: np.ndarray, h: float) -> np.ndarray:
    distance = ((x[:, None].astype(float) - centres.astype(float)) ** 2).sum(2)
    return (
        logsumexp(-distance / (2 * h**2), axis=1)
        - math.log(len(centres))
        - x.shape[1] / 2 * math.log(2 * math.pi * h**2)
    )


def one(**settings):
    (number,) = parzen.estimate(Normal(), dataset(), parzen.Settings(**settings), bench()).numbers
    return number


def test_the_window_is_its_formula_and_the_bandwidth_is_chosen_on_validation(monkeypatch):
    monkeypatch.setattr(parzen, "_EXAMPLES_AT_ONCE", 37)
    number = one(samples=203, bandwidth_low=0.1, bandwidth_high=1.0, bandwidth_count=10, validation_examples=100)
    centres, data = Normal().sample(203, bench().generator).numpy(), dataset()
    grid = np.logspace(-1, 0, 10)
    curve = [window(data.validation.x[:100], centres, h).mean() for h in grid]
    np.testing.assert_allclose(number.evidence["validation_curve"], np.stack([grid, curve], 1), rtol=1e-9)
    best = grid[int(np.argmax(curve))]
    assert number.evidence["bandwidth"] == pytest.approx(best)
    np.testing.assert_allclose(number.per_example, window(data.test.x, centres, best), rtol=1e-9)
    half = window(data.test.x, centres[:103], best).mean()  # five of ten blocks; three of them have one sample more
    assert number.evidence["value_with_half_the_samples"] == pytest.approx(half, rel=1e-9)


def test_one_sample_far_from_the_origin_is_one_gaussian():
    class Point(Sampler):
        def sample(self, n, generator):
            return torch.full((n, 2), 1000.0)

    data = dataset()
    split = Split(data.test.x + np.float32(1000))
    moved = Dataset("made", "made", "real", (2,), dict.fromkeys(("train", "validation", "test"), split), {})
    (number,) = parzen.estimate(Point(), moved, parzen.Settings(samples=20, bandwidth_high=3.0), bench()).numbers
    h = number.evidence["bandwidth"]
    expected = stats.norm(1000, h).logpdf(split.x.astype(float)).sum(1)
    np.testing.assert_allclose(number.per_example, expected, rtol=1e-9)
    assert number.estimator_se == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("low", "high", "word"), [(2.0, 5.0, "least"), (0.01, 0.02, "largest")])
def test_a_bandwidth_at_the_border_is_not_converged(low, high, word):
    number = one(samples=200, bandwidth_low=low, bandwidth_high=high)
    assert number.converged is False
    assert word in number.evidence["reason"]
    assert one(samples=200).converged is None


def test_the_jackknife_is_the_spread_over_samplings():
    values, errors = [], []
    for seed in range(60):
        settings = parzen.Settings(samples=200, bandwidth_low=0.499, bandwidth_high=0.501, bandwidth_count=3)
        (number,) = parzen.estimate(Normal(), dataset(), settings, bench(seed)).numbers
        values.append(number.value)
        errors.append(number.estimator_se)
    # A standard deviation of 60 is good to 9 %, the mean of 60 jackknives of ten blocks to 3 %, and the jackknife is
    # a little large by its nature: a factor outside [0.65, 1.5] has a false-alarm rate below 1e-4.
    assert 0.65 < np.mean(errors) / np.std(values) < 1.5


def test_with_many_samples_a_window_approaches_the_model_from_below():
    data = dataset()
    exact = stats.norm.logpdf(data.test.x).sum(1).mean()
    few, many = one(samples=100), one(samples=5000)
    assert few.value < many.value
    assert many.value == pytest.approx(exact, abs=0.1)


def test_bad_settings_and_bad_samples_are_refused():
    with pytest.raises(ValidationError, match="bandwidth_low"):
        parzen.Settings(bandwidth_low=1.0, bandwidth_high=0.5)
    with pytest.raises(CannotBeDone, match="not finite"):
        parzen.estimate(Broken(), dataset(), parzen.Settings(samples=20), bench())


def test_samples_are_the_first_drawn():
    found = samples.estimate(Normal(), dataset(), samples.Settings(count=5), bench())
    assert found.numbers == []
    assert found.arrays["samples"].dtype == np.float32
    np.testing.assert_array_equal(found.arrays["samples"], Normal().sample(5, bench().generator).numpy())
