"""Transforms against their inverses, numerical Jacobians and integrals; bits per pixel against codes known by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from scipy import integrate, stats
from scipy.special import logsumexp

from dgmbench.data.catalogue import Entry, entries, entry, resolve
from dgmbench.data.draws import noise24, stream
from dgmbench.data.fetch import fetch
from dgmbench.data.patches import dequantized
from dgmbench.data.prepare import open_dataset, prepare
from dgmbench.data.transforms import Chain, Dequantize, Logit, RemoveMean, Scale, Step, bits_per_dimension, check_space

PATCHES = Chain((Dequantize(256), Scale(256), RemoveMean()))
SPACE = [Step(dequantize=256), Step(scale=256), Step(remove_mean=True)]
PIXELS = SPACE[:2]
CONTINUOUS = [
    Scale(3.7),
    RemoveMean(),
    Logit(0.0),
    Logit(0.05),
    Chain((Scale(0.5), RemoveMean())),
    Chain((Scale(2), Logit(1e-3))),
    Chain((Logit(0.1), RemoveMean(), Scale(7))),
]


def integers(levels: int, rows: int = 3):
    return st.integers(2, 9).flatmap(lambda d: arrays(np.int64, (rows, d), elements=st.integers(0, levels - 1)))


def inside(rows: int = 3):
    return st.integers(2, 6).flatmap(lambda d: arrays(np.float64, (rows, d), elements=st.floats(0.02, 0.98)))


def named(transform) -> str:
    return "+".join(map(named, transform.transforms)) if isinstance(transform, Chain) else str(transform)


@given(integers(256), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 1 - 2.0**-53]))
def test_pixels_come_back_exactly_from_the_prepared_space(x, seed, extreme):
    noise = np.random.default_rng(seed).random(x.shape)
    noise[0] = extreme
    for steps in ((Dequantize(256),), (Dequantize(256), Scale(256)), (Dequantize(256), Scale(1 / 8))):
        np.testing.assert_array_equal(np.floor(Chain(steps).inverse(Chain(steps).forward(x, noise))), x)
    # Not so exact where a sum is divided by a number of pixels that is no power of two.
    back = RemoveMean().inverse(RemoveMean().forward(x / 256)) * 256
    np.testing.assert_allclose(back, x, atol=1e-11)


@given(arrays(np.int64, (4, 64), elements=st.integers(0, 255)), st.integers(0, 2**32 - 1))
def test_patches_of_64_pixels_come_back_exactly_with_their_mean(x, seed):
    noise = np.random.default_rng(seed).integers(0, 2**24, x.shape)
    y = PATCHES.forward(x, noise * 2.0**-24)
    np.testing.assert_array_equal(PATCHES.inverse(y), x)
    # And the last 63 values are the prepared ones, to the last bit.
    np.testing.assert_array_equal(y[:, 1:].astype(np.float32), dequantized(x, noise))


@pytest.mark.parametrize("transform", CONTINUOUS, ids=named)
@given(inside())
@settings(max_examples=40)
def test_the_inverse_inverts(transform, x):
    np.testing.assert_allclose(transform.inverse(transform.forward(x)), x, atol=1e-12)


@pytest.mark.parametrize("transform", CONTINUOUS, ids=named)
@given(inside(rows=2))
@settings(max_examples=40)
def test_log_abs_det_is_that_of_the_numerical_jacobian(transform, x):
    d, step = x.shape[1], 1e-6
    for row, told in zip(x, transform.log_abs_det(x)):
        moved = [transform.forward(row + sign * step * np.eye(d)) for sign in (1, -1)]
        jacobian = (moved[0] - moved[1]) / (2 * step)
        assert told == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-5)


@given(inside(rows=4), st.floats(0.5, 300), st.floats(0, 0.3))
def test_the_log_det_of_a_chain_is_the_sum_along_it(x, by, alpha):
    parts = (Logit(alpha), RemoveMean(), Scale(by))
    total = 0.0
    at = x
    for part in parts:
        total, at = total + part.log_abs_det(at), part.forward(at)
    np.testing.assert_allclose(Chain(parts).log_abs_det(x), total, rtol=1e-12)
    nested = Chain((Chain(parts[:1]), Chain(parts[1:])))
    np.testing.assert_array_equal(nested.forward(x), at)
    np.testing.assert_allclose(nested.log_abs_det(x), total, rtol=1e-12)


@pytest.mark.parametrize("d", [2, 3, 64])
def test_the_mean_takes_log_d(d):
    matrix = RemoveMean().forward(np.eye(d)).T
    assert np.linalg.slogdet(matrix)[1] == pytest.approx(-math.log(d), abs=1e-12)
    assert RemoveMean().log_abs_det(np.zeros((1, d)))[0] == -math.log(d)


@given(integers(8), st.integers(0, 2**32 - 1))
def test_a_log_det_that_depends_on_x_sees_the_noise(x, seed):
    noise = np.random.default_rng(seed).random(x.shape)
    chain = Chain((Dequantize(8), Scale(8), Logit(0.05)))
    expected = Chain((Scale(8), Logit(0.05))).log_abs_det(Dequantize(8).forward(x, noise))
    np.testing.assert_allclose(chain.log_abs_det(x, noise), expected, rtol=1e-12)
    assert not chain.constant
    with pytest.raises(ValueError, match="needs noise"):
        chain.log_abs_det(x)
    with pytest.raises(ValueError, match=r"are not of 0 ... 7"):
        chain.forward(x + 8, noise)


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.2])
def test_a_density_through_the_logit_integrates_to_what_lies_inside(alpha):
    """A logistic density of y is uniform in s, so that x in [0, 1] holds 1 - 2 alpha of it."""
    logit = Logit(alpha)

    def density(x):
        at = np.array([[x]])
        return float(np.exp(stats.logistic.logpdf(logit.forward(at)[0, 0]) + logit.log_abs_det(at)[0]))

    assert integrate.quad(density, 1e-12, 1 - 1e-12)[0] == pytest.approx(1 - 2 * alpha, abs=1e-9)


@pytest.mark.parametrize("d", [2, 3])
def test_a_density_through_the_mean_integrates_to_one(d):
    chain = Chain((Scale(2.0), RemoveMean()))
    axis = np.linspace(-9, 9, 91)
    grid = np.stack(np.meshgrid(*[axis] * d), axis=-1).reshape(-1, d)
    law = stats.multivariate_normal(np.linspace(-0.1, 0.2, d), np.diag([0.1, 0.2, 0.2][:d]))
    density = np.exp(law.logpdf(chain.forward(grid)) + chain.log_abs_det(grid))
    assert density.sum() * (axis[1] - axis[0]) ** d == pytest.approx(1, abs=1e-6)


def test_dequantised_density_bounds_the_log_probability_of_the_integers():
    """One pixel of three levels, a density with a slope inside each: E log p <= log P, equal where it is flat."""
    e = (np.arange(100_000) + 0.5) / 100_000
    x = np.repeat(np.arange(3), len(e))[:, None]
    y = Dequantize(3).forward(x, np.tile(e, 3)[:, None])
    log_density = np.log(y[:, 0] / 4.5).reshape(3, -1)
    log_probability = logsumexp(log_density, axis=1) - math.log(len(e))
    np.testing.assert_allclose(np.exp(log_probability), np.array([1, 3, 5]) / 9, rtol=1e-6)
    bound = log_density.mean(axis=1)
    assert (bound < log_probability).all()
    assert (np.diff(log_probability - bound) < 0).all()


@given(st.integers(1, 20), st.sampled_from([2, 16, 256, 1000]))
def test_a_code_of_uniform_pixels_costs_the_bits_of_their_levels(d, levels):
    scaled = [Step(dequantize=levels), Step(scale=levels)]
    assert bits_per_dimension(0.0, d, scaled) == pytest.approx(math.log2(levels), rel=1e-12)
    # The same code in the space of the integers, where the density is 1 / levels.
    assert bits_per_dimension(-d * math.log(levels), d, scaled[:1]) == pytest.approx(math.log2(levels), rel=1e-12)


def test_uniform_pixels_cost_8_bits_and_what_is_lost_by_coding_the_mean_apart():
    """Two uniform pixels: y = (u_1 - u_2) / 2 has the density 2 (1 - 2 |y|), and log 2 - 1/2 nats on average.

    Given y, the mean is uniform on a length of 1 - 2 |y|, whose mean logarithm is -1/2. Coding it as uniform on
    [0, 1) wastes that half nat: 8 + 1 / (4 log 2) bits per pixel.
    """
    rng = np.random.default_rng(0)
    y = RemoveMean().forward(rng.random((200_000, 2)))[:, 1]
    assert np.log(2 * (1 - 2 * abs(y))).mean() == pytest.approx(math.log(2) - 0.5, abs=0.01)
    assert bits_per_dimension(math.log(2) - 0.5, 1, SPACE) == pytest.approx(8 + 0.25 / math.log(2), abs=1e-12)


def test_bits_of_patches():
    # A density of 64 on the 63 values: with the mean's 1 on [0, 1), 1 on the pixels, 8 bits each.
    assert bits_per_dimension(math.log(64), 63, SPACE) == pytest.approx(8, abs=1e-12)
    # 64 log 2 nats more are one bit per pixel less.
    assert bits_per_dimension(math.log(64) + 64 * math.log(2), 63, SPACE) == pytest.approx(7, abs=1e-12)


@given(st.floats(-300, 300), st.integers(1, 100))
def test_bits_fall_with_nats_and_agree_with_the_chain(nats, d):
    x = np.random.default_rng(d).integers(0, 256, (1, d + 1))
    pixels = nats + PATCHES.log_abs_det(x)[0]
    assert bits_per_dimension(nats, d, SPACE) == pytest.approx(-pixels / math.log(2) / (d + 1), rel=1e-12, abs=1e-12)
    assert bits_per_dimension(nats + 1, d, SPACE) < bits_per_dimension(nats, d, SPACE)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ([], "begins with 'dequantize'"),
        ([{"scale": 16}], "begins with 'dequantize'"),
        ([{"dequantize": 256}, {"dequantize": 256}], "stands there once"),
        ([{"dequantize": 256}, "remove_mean", {"scale": 256}], "ends with 'remove_mean'"),
        ([{"dequantize": 256}, {"scale": 255}, "remove_mean"], r"\[0, 1\)"),
        ([{"dequantize": 256}, "remove_mean"], r"\[0, 1\)"),
        ([{"dequantize": 1}], "greater than or equal to 2"),
        ([{"dequantize": 256}, {"scale": 0}], "greater than 0"),
        ([{"dequantize": 256, "scale": 256}], "write one of"),
        ([{"dequantize": 256}, {"logit": 0.1}], "logit"),
        ([{"dequantize": 256}, "demean"], "demean"),
    ],
)
def test_a_space_without_honest_bits_is_refused(space, message):
    fields = entry("bsds300").model_dump()
    assert Entry.model_validate(fields).space == SPACE
    with pytest.raises(ValidationError, match=message):
        Entry.model_validate(fields | {"space": space})


def test_the_space_is_no_part_of_a_datasets_identity(tmp_path, monkeypatch):
    from dgmbench.data import catalogue

    before, text = resolve("bsds300"), (catalogue.CATALOGUE / "bsds300.yaml").read_text()
    assert "space: " in text
    (tmp_path / "bsds300.yaml").write_text("\n".join(line for line in text.splitlines() if "space: " not in line))
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path)
    assert entry("bsds300").space is None
    assert resolve("bsds300") == before


@pytest.mark.parametrize("name", sorted(name for name, found in entries().items() if found.space))
def test_every_declared_space_has_bits(name):
    check_space(entry(name).space)
    assert math.isfinite(bits_per_dimension(0.0, 63, entry(name).space))


def test_prepared_patches_give_back_the_differences_of_their_pixels(tmp_path):
    """The mean is lost; with the noise drawn again, the differences of all 64 pixels are whole numbers of levels."""
    fetch("photograph-patches", tmp_path / "raw", offline=True)
    ref = resolve("photograph-patches", {"train": 3000, "validation": 10, "test": 10})
    train = open_dataset(prepare(ref, tmp_path / "raw", tmp_path / "prepared")).train
    y = np.asarray(train.x, dtype=np.float64)
    noise = noise24(stream(ref.options["seed"], 0, 2), y.shape[0] * 64).reshape(-1, 64) * 2.0**-24
    # Any mean gives the pixels up to one constant in each patch.
    moved = Chain(PATCHES.transforms[1:]).inverse(np.concatenate([np.full((len(y), 1), 0.5), y], axis=1)) - noise
    differences = moved - moved[:, :1]
    # The prepared values are rounded to float32, the last pixel is minus the sum of 63 of them.
    np.testing.assert_allclose(differences, np.rint(differences), atol=2e-3)
    assert abs(np.rint(differences)).max() <= 255
    assert len(np.unique(np.rint(differences))) > 100
    # The mean of the patch that has the first pixel 0 <= v <= 255 brings whole patches of 0 ... 255 back.
    v = np.rint(differences) - np.rint(differences).min(axis=1, keepdims=True)
    u = (v + noise) / 256
    again = PATCHES.forward(v, noise)
    np.testing.assert_allclose(again[:, 1:], y, atol=2.0**-24)
    np.testing.assert_array_equal(PATCHES.inverse(np.concatenate([u.mean(axis=1, keepdims=True), again[:, 1:]], 1)), v)
