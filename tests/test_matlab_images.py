"""Labelled images from a small made MATLAB file: stored column by column, kept row by row."""

import numpy as np
import pytest
import scipy.io
from samples import matlab_images as sample

from dgmbench.data.datasets import matlab_images
from dgmbench.data.loading import Writer
from dgmbench.errors import UserError


@pytest.fixture
def files(tmp_path, monkeypatch):
    return sample.make(tmp_path, monkeypatch)[0]


def prepared(files, folder, **options):
    folder.mkdir()
    chosen = matlab_images.Options(**options)
    writer = Writer(folder, matlab_images.describe(chosen))
    matlab_images.prepare(files, chosen, writer)
    found = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    assert tuple(split for split in ("train", "validation", "test") if split in found) == matlab_images.splits(chosen)
    return found, writer.notes


def test_images_are_turned_from_columns_to_rows(files, tmp_path):
    found, notes = prepared(files, tmp_path / "out")
    stored = sample.contents()
    for image, row in zip(found["train"].reshape(-1, 32, 32), stored["fea"]):
        np.testing.assert_array_equal(image, row.reshape(32, 32, order="F").astype(np.float32))
    np.testing.assert_array_equal(found["train_labels"], stored["gnd"].ravel())
    assert notes["labels"] == "made"


def test_bytes_are_divided_by_255(files, tmp_path, monkeypatch):
    known = matlab_images._Known(255, sample.COUNTS, {})
    monkeypatch.setitem(matlab_images._FILES, "COIL20.mat", known)
    stored = sample.contents()
    levels = np.rint(stored["fea"] * 255).astype(np.uint8)
    scipy.io.savemat(files["COIL20.mat"], stored | {"fea": levels})
    found, _ = prepared(files, tmp_path / "out")
    assert found["train"].dtype == np.float32
    np.testing.assert_array_equal(np.rint(found["train"].reshape(-1, 32, 32) * 255)[0, :, 0], levels[0, :32])


def test_splits_are_drawn_by_the_seed_and_hold_every_image_once(files, tmp_path):
    whole, _ = prepared(files, tmp_path / "whole")
    one, _ = prepared(files, tmp_path / "one", validation=2, test=3, seed=5)
    again, _ = prepared(files, tmp_path / "again", validation=2, test=3, seed=5)
    assert [len(one[split]) for split in ("train", "validation", "test")] == [4, 2, 3]
    rows = np.concatenate([one["train"], one["validation"], one["test"]])
    assert {row.tobytes() for row in rows} == {row.tobytes() for row in whole["train"]}
    assert all((one[name] == again[name]).all() for name in one)
    with pytest.raises(UserError, match="lower `validation` or `test`"):
        prepared(files, tmp_path / "none", validation=6, test=3)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"fea": np.zeros((9, 1000))}, r"holds \(9, 1000\) values"),
        ({"gnd": np.ones((8, 1))}, "8 labels"),
        ({"gnd": np.ones((9, 1))}, "number of images of each label"),
        ({"gnd": np.full((9, 1), np.nan)}, "number of images of each label"),
        ({"fea": np.full((9, 1024), 1.01)}, "not between 0 and 1"),
        ({"fea": np.full((9, 1024), np.nan)}, "not between 0 and 1"),
        ({"gnd": "abc"}, "is text"),
    ],
)
def test_another_content_is_refused_with_the_name_of_its_file(files, tmp_path, changed, told):
    scipy.io.savemat(files["COIL20.mat"], sample.contents() | changed)
    with pytest.raises(UserError, match=rf"COIL20\.mat.* {told}"):
        prepared(files, tmp_path / "out")


def test_a_file_that_nobody_knows_is_told(files, tmp_path):
    with pytest.raises(UserError, match=r"reads one of COIL20\.mat, YaleB_32x32\.mat, not faces\.mat"):
        prepared({"faces.mat": files["COIL20.mat"]}, tmp_path / "out")
