"""MNIST from small made idx files: what is in them comes out, the last images validate, other files are refused."""

import gzip
import struct

import numpy as np
import pytest
from samples import mnist as sample

from dgmbench.data.datasets import mnist
from dgmbench.data.loading import Writer
from dgmbench.errors import UserError

TRAIN, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.fixture
def files(tmp_path, monkeypatch):
    return sample.make(tmp_path, monkeypatch)[0]


@pytest.fixture
def prepared(files, tmp_path):
    made = iter(range(100))

    def prepare(**options):
        folder = tmp_path / str(next(made))
        folder.mkdir()
        chosen = mnist.Options(**options)
        writer = Writer(folder, mnist.describe(chosen))
        mnist.prepare(files, chosen, writer)
        found = {path.stem: np.load(path) for path in folder.glob("*.npy")}
        assert set(mnist.splits(chosen)) == {name for name in found if "_" not in name}
        return found, writer.notes

    return prepare


def content(files, name, header):
    return np.frombuffer(gzip.decompress(files[name].read_bytes())[header:], dtype=np.uint8)


def test_pixels_and_labels_come_out_in_their_order(files, prepared):
    found, notes = prepared()
    assert set(found) == {"train", "train_labels", "test", "test_labels"}
    for split, half in (("train", "train"), ("test", "t10k")):
        pixels = content(files, f"{half}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
        assert found[split].dtype == np.float32
        np.testing.assert_array_equal(found[split], pixels / np.float32(255))
        np.testing.assert_array_equal(found[f"{split}_labels"], content(files, f"{half}-labels-idx1-ubyte.gz", 8))
    assert {"order", "labels"} <= notes.keys()
    assert "binarization" not in notes


def test_the_last_training_images_validate(prepared):
    (whole, _), (found, _) = prepared(), prepared(validation=15)
    for suffix in ("", "_labels"):
        np.testing.assert_array_equal(found[f"train{suffix}"], whole[f"train{suffix}"][:25])
        np.testing.assert_array_equal(found[f"validation{suffix}"], whole[f"train{suffix}"][25:])
        np.testing.assert_array_equal(found[f"test{suffix}"], whole[f"test{suffix}"])


@pytest.mark.parametrize("binarize", ["none", "training", "all"])
def test_prepared_twice_is_the_same_to_the_byte(prepared, binarize):
    (one, _), (two, _) = prepared(validation=5, binarize=binarize), prepared(validation=5, binarize=binarize)
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_once_drawn_images_follow_their_grey_values_and_the_seed(prepared):
    (grey, _), (bits, notes) = prepared(validation=5), prepared(validation=5, binarize="training", seed=2)
    np.testing.assert_array_equal(bits["train"], grey["train"])
    for split in ("validation", "test"):
        assert bits[split].dtype == np.uint8
        assert not bits[split][grey[split] == 0].any()
        assert bits[split][grey[split] == 1].all()
        np.testing.assert_array_equal(bits[f"{split}_labels"], grey[f"{split}_labels"])
    assert not np.array_equal(bits["test"], prepared(validation=5, binarize="training")[0]["test"])
    assert "seed 2" in notes["binarization"]


def test_files_that_are_not_compressed_are_read_as_well(files, prepared):
    first, _ = prepared()
    for path in files.values():
        path.write_bytes(gzip.decompress(path.read_bytes()))
    again, _ = prepared()
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)


def test_more_validation_images_than_there_are_is_told(prepared):
    with pytest.raises(UserError, match=r"40 training images leave none beside 40: lower `validation`"):
        prepared(validation=40)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (TRAIN, lambda idx: idx[:-1], "not 40 images of 28 x 28"),
        (TRAIN, lambda idx: idx + b"\0", "not 40 images of 28 x 28"),
        (TRAIN, lambda idx: struct.pack(">IIII", 2051, 39, 28, 28) + idx[16 + 784 :], "not 40 images of 28 x 28"),
        (TRAIN, lambda idx: struct.pack(">IIII", 2051, 40, 14, 56) + idx[16:], "not 40 images of 28 x 28"),
        (TRAIN, lambda idx: struct.pack("<IIII", 2051, 40, 28, 28) + idx[16:], "not 40 images of 28 x 28"),
        (TRAIN, lambda idx: b"", "not 40 images of 28 x 28"),
        (LABELS, lambda idx: idx[:-1], "not 40 labels"),
        (LABELS, lambda idx: struct.pack(">II", 2051, 40) + idx[8:], "not 40 labels"),
        (LABELS, lambda idx: idx[:-1] + b"\x0a", "holds a label 10, not digits"),
    ],
)
def test_another_file_is_refused_with_its_name(files, prepared, name, change, told):
    files[name].write_bytes(gzip.compress(change(gzip.decompress(files[name].read_bytes()))))
    with pytest.raises(UserError, match=rf"^{name} .*{told}"):
        prepared()
