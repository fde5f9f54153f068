"""Grey images as binary ones: the draws have the grey values as means, and are drawn once or at every use as told."""

import numpy as np
import pytest
import torch

from dgmbench.data import binarization
from dgmbench.data.catalogue import DatasetRef
from dgmbench.data.certificate import FILE, build
from dgmbench.data.loading import SPLITS, Writer
from dgmbench.data.prepare import open_dataset
from dgmbench.files import write_json

SHAPE = (4, 5)
LEVELS = np.linspace(0, 1, 20, dtype=np.float32)  # black and white among them
ROWS = {"train": 3000, "validation": 2000, "test": 9000}
ONCE = {"none": (), "training": ("validation", "test"), "all": ()}
ANEW = {"none": (), "training": ("train",), "all": SPLITS}


def grey(split):
    return np.tile(LEVELS, (ROWS[split], 1))


@pytest.fixture
def dataset(tmp_path):
    made = iter(range(100))

    def make(binarize, seed=0):
        folder = tmp_path / str(next(made))
        folder.mkdir()
        description = binarization.description(binarize, SHAPE)
        writer = Writer(folder, description)
        for split, rows in ROWS.items():
            binarization.write(writer, split, grey(split), binarize, seed, labels=np.arange(rows) % 3)
        binarization.note(writer, binarize, seed)
        about = {"notes": writer.notes}
        write_json(folder / FILE, build(folder, DatasetRef("made", {}, "0"), description, about=about))
        return open_dataset(folder)

    return make


def assert_means_are_the_grey_values(x):
    """Each pixel's mean over n draws has the standard deviation sqrt(v (1 - v) / n).

    Six of them in every one of 20 pixels: by the normal approximation, a false alarm in 25 million for each call.
    """
    deviation = np.sqrt(LEVELS * (1 - LEVELS) / len(x))
    assert (np.abs(x.mean(axis=0) - LEVELS) <= 6 * deviation).all()
    assert (x[:, 0] == 0).all()
    assert (x[:, -1] == 1).all()


@pytest.mark.parametrize("binarize", ["none", "training", "all"])
def test_each_split_is_stored_grey_or_drawn(dataset, binarize):
    data = dataset(binarize)
    assert data.values == ("unit" if binarize == "none" else "binary")
    assert tuple(split for split in SPLITS if data.splits[split].binarize) == ANEW[binarize]
    for split, parts in data.splits.items():
        if split in ONCE[binarize]:
            assert parts.x.dtype == np.uint8
            assert_means_are_the_grey_values(parts.x)
        else:
            np.testing.assert_array_equal(parts.x, grey(split))
        np.testing.assert_array_equal(parts.labels, np.arange(ROWS[split]) % 3)


def test_pixels_and_images_are_drawn_independently(dataset):
    x = dataset("training").test.x[:, 1:-1].astype(np.float64)
    # Correlations of 9,000 draws have the standard deviation 0.0105; 153 + 18 of them below six of it: one false
    # alarm in 3 million.
    pixels = np.corrcoef(x.T) - np.eye(18)
    assert np.abs(pixels).max() < 6 * 0.0106
    following = [np.corrcoef(x[:-1, i], x[1:, i])[0, 1] for i in range(18)]
    assert np.abs(following).max() < 6 * 0.0106


def test_once_drawn_splits_are_the_same_for_every_preparation_and_chunk(dataset, monkeypatch):
    one, again = dataset("training"), dataset("training")
    monkeypatch.setattr(binarization, "_ROWS", 77)
    chunked, other = dataset("training"), dataset("training", seed=1)
    for split in ("validation", "test"):
        bits = one.splits[split].x
        assert bits.tobytes() == again.splits[split].x.tobytes() == chunked.splits[split].x.tobytes()
        assert not np.array_equal(bits, other.splits[split].x)
    # Splits do not share a stream.
    assert not np.array_equal(one.validation.x, one.test.x[:2000])


def test_a_split_drawn_anew_differs_for_each_use_and_is_binary(dataset):
    train = dataset("training").train
    first, again, other = (train.all(torch.Generator().manual_seed(seed)).numpy() for seed in (0, 0, 1))
    assert set(np.unique(first)) == {0.0, 1.0}
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert_means_are_the_grey_values(first)
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(100)
    assert not torch.equal(train.take(rows, generator), train.take(rows, generator))
    with pytest.raises(ValueError, match="needs a generator"):
        train.take(rows)


def test_the_certificate_says_which_splits_are_drawn_when(dataset):
    notes = {binarize: dataset(binarize, seed=4).certificate["notes"] for binarize in ("none", "training", "all")}
    assert notes["none"] == {}
    drawn = "Bernoulli of the grey values, drawn anew at every use: "
    assert notes["training"]["binarization"] == f"{drawn}train; the other splits were drawn once, with seed 4"
    assert notes["all"]["binarization"] == f"{drawn}train, validation, test"


def test_only_splits_that_there_are_are_drawn_anew():
    assert binarization.description("all", SHAPE, ("train", "test")).binarize == ("train", "test")
    assert binarization.description("training", SHAPE, ("train", "test")).binarize == ("train",)
