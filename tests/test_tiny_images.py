"""Images of 8 x 8 as 63 values, from a small made archive: the protocol of patches, the split and what is refused."""

import io
import zipfile
from fractions import Fraction

import numpy as np
import pytest
from samples import tiny_images as sample

from dgmbench.data.datasets import tiny_images
from dgmbench.data.draws import noise24, stream
from dgmbench.data.loading import Writer
from dgmbench.errors import UserError


@pytest.fixture
def path(tmp_path, monkeypatch):
    return sample.make(tmp_path, monkeypatch)[0]["cifar10_gray8x8.npz"]


@pytest.fixture
def arrays(path):
    with np.load(path) as archive:
        return dict(archive)


@pytest.fixture
def prepared(path, tmp_path):
    made = iter(range(100))

    def prepare(**options):
        folder = tmp_path / str(next(made))
        folder.mkdir()
        chosen = tiny_images.Options(**{"validation": 10} | options)
        writer = Writer(folder, tiny_images.describe(chosen))
        tiny_images.prepare({path.name: path}, chosen, writer)
        found = {array.stem: np.load(array) for array in folder.glob("*.npy")}
        assert set(tiny_images.splits(chosen)) == {name for name in found if "_" not in name}
        return found

    return prepare


def pixels_of(x):
    """Which pixels u = (v + e) / 256 could have given x, up to a constant: 64 values with the mean zero."""
    return np.concatenate([x, -x.sum(axis=1, keepdims=True)], axis=1) * 256


def test_values_are_dequantised_pixels_without_their_mean_and_the_last_one(prepared, arrays):
    """Against the equation in exact fractions."""
    found = prepared(seed=3)["test"]
    assert found.shape == (20, 63)
    assert found.dtype == np.float32
    noise = noise24(stream(3, 30, 3), 20 * 64).reshape(20, 64)
    for v, e, x in zip(arrays["x_test"].reshape(20, 64).tolist(), noise.tolist(), found):
        u = [(value + Fraction(bits, 2**24)) / 256 for value, bits in zip(v, e)]
        mean = sum(u) / 64
        np.testing.assert_array_equal(x, np.array([float(value - mean) for value in u[:-1]], dtype=np.float32))


def test_each_row_is_an_image_with_noise_below_one_grey_level(prepared, arrays):
    found = prepared()
    shown = arrays["x_test"].reshape(20, 64).astype(float)
    noise = pixels_of(found["test"].astype(float)) - (shown - shown.mean(axis=1, keepdims=True))
    assert noise.max() - noise.min() < 2
    assert np.ptp(noise, axis=1).min() > 0.5
    assert np.ptp(noise, axis=1).max() < 1 + 1e-3
    np.testing.assert_array_equal(found["test_labels"], arrays["y_test"])


def test_validation_images_are_drawn_by_the_seed_and_both_keep_their_order(prepared, arrays):
    """Rows are told by their differences from the mean, to within the noise."""
    found = prepared(seed=1)
    shown = arrays["x_train"].reshape(60, 64).astype(float)
    centred = shown - shown.mean(axis=1, keepdims=True)
    rows = {}
    for split in ("train", "validation"):
        distance = np.abs(pixels_of(found[split].astype(float))[:, None] - centred).max(axis=2)
        assert (distance.min(axis=1) < 1).all()
        rows[split] = distance.argmin(axis=1).tolist()
        assert rows[split] == sorted(rows[split])
        np.testing.assert_array_equal(found[f"{split}_labels"], arrays["y_train"][rows[split]])
    assert len(rows["validation"]) == 10
    assert sorted(rows["train"] + rows["validation"]) == list(range(60))
    assert not np.array_equal(found["validation_labels"], prepared(seed=2)["validation_labels"])


def test_the_same_seed_gives_the_same_noise_and_another_seed_another(prepared):
    one, two, other = prepared(), prepared(), prepared(seed=5)
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    assert not np.array_equal(one["test"], other["test"])
    assert np.abs(one["test"] - other["test"]).max() < 2 / 256


def test_without_validation_all_images_train(prepared, arrays):
    found = prepared(validation=0)
    assert "validation" not in found
    np.testing.assert_array_equal(found["train_labels"], arrays["y_train"])
    with pytest.raises(UserError, match="60 training images leave none beside 60: lower `validation`"):
        prepared(validation=60)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x_train": np.zeros((59, 8, 8), np.uint8)}, r"train is uint8 \(59, 8, 8\)"),
        ({"x_train": np.zeros((60, 64), np.uint8)}, r"train is uint8 \(60, 64\)"),
        ({"x_test": np.zeros((20, 8, 8), np.float32)}, "test is float32"),
        ({"y_test": np.zeros(19, np.uint8)}, r"labels uint8 \(19,\), not 20 images"),
        ({"y_test": np.zeros(20)}, "labels float64"),
        ({"y_train": np.full(60, 10)}, r"train has labels 10 ... 10, not 0 ... 9"),
        ({"y_train": np.full(60, -1)}, "train has labels -1"),
        ({"x_test": None}, "not the archive of four arrays"),
        ({"y_test": np.array([{"a": 1}] * 20, dtype=object)}, "not the archive of four arrays"),
    ],
)
def test_other_arrays_are_refused_with_the_name_of_the_file(prepared, path, arrays, changes, told):
    np.savez_compressed(path, **{name: x for name, x in (arrays | changes).items() if x is not None})
    with pytest.raises(UserError, match=rf"^cifar10_gray8x8\.npz.*{told}"):
        prepared()


def test_an_archive_that_expands_without_bound_is_refused(prepared, path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (60, 8, 8)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", header.getvalue() + bytes(65 << 20))
    with pytest.raises(UserError, match="expands to more than"):
        prepared()
