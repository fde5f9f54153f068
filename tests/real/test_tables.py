"""The real files of the table-like datasets: what is known of them, where a mirror is at hand (DGMBENCH_MIRROR)."""

import os

import ncompress
import numpy as np
import pytest

from dgmbench.data import certificate
from dgmbench.data.archives import open_bytes
from dgmbench.data.catalogue import resolve
from dgmbench.data.datasets import isolet
from dgmbench.data.fetch import fetch
from dgmbench.data.loading import Writer
from dgmbench.data.prepare import open_dataset, prepare

MIRROR = os.environ.get("DGMBENCH_MIRROR")
pytestmark = pytest.mark.skipif(not MIRROR, reason="DGMBENCH_MIRROR names no mirror of the real files")
USPS_TRAIN = [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
USPS_TEST = [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
YALE = [64] * 10 + [60, 59, 60, 63, 62, 63, 63] + [64] * 21
NAMES = ("usps", "usps-9298", "coil20", "yale-b", "isolet", "isolet-7797")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset with the options of its entry, fetched and prepared once, verified and prepared again."""
    root, ready = tmp_path_factory.mktemp("real"), {}

    def get(name):
        if name not in ready:
            fetch(name, root / "raw", mirror=MIRROR)
            one, two = (prepare(resolve(name), root / "raw", root / where) for where in ("one", "two"))
            assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}
            assert certificate.verify(one) == []
            ready[name] = open_dataset(one)
        return ready[name]

    return get


def counts(split, first):
    """How many rows each label has, from the first label on; there is no other."""
    labels = np.asarray(split.labels)
    assert labels.min() == first
    return np.bincount(labels - first).tolist()


def correlation(images, others):
    return np.corrcoef(images.ravel(), others.ravel())[0, 1]


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_is_the_same_every_time_and_shares_no_row_between_its_splits(dataset, name):
    data = dataset(name)
    assert set(data.certificate["shared_rows"].values()) <= {0}
    for facts in data.certificate["splits"].values():
        assert facts["distinct_rows"] == facts["rows"], "no image or letter is there twice"
        assert (facts["min"], facts["max"]) == (-1.0 if name.startswith("isolet") else 0.0, 1.0)


def test_usps_has_the_images_of_each_digit_that_its_description_gives(dataset):
    apart, together = dataset("usps"), dataset("usps-9298")
    assert set(apart.splits) == {"train", "test"}
    assert counts(apart.train, 0) == USPS_TRAIN
    assert counts(apart.splits["test"], 0) == USPS_TEST
    assert set(together.splits) == {"train"}
    assert counts(together.train, 0) == [a + b for a, b in zip(USPS_TRAIN, USPS_TEST)]
    assert together.train.x.shape == (9298, 256)
    # Upright digits: a one is a column of ink, and so every row of it has some.
    ones = np.asarray(apart.train.x)[np.asarray(apart.train.labels) == 1].reshape(-1, 16, 16).mean(axis=0)
    assert ones.max(axis=1).min() > 0.5
    assert ones.max(axis=0).min() < 0.01


def test_coil20_has_72_views_of_each_object_the_right_way_round(dataset):
    data = dataset("coil20")
    assert data.train.x.shape == (1440, 1024)
    assert counts(data.train, 1) == [72] * 20
    images = np.asarray(data.train.x).reshape(-1, 32, 32)
    assert correlation(images, images[:, :, ::-1]) > correlation(images, images[:, ::-1]) + 0.1
    # Views of 5 degrees further are next to each other, and the turn is whole.
    turned = images.reshape(20, 72, 32, 32)
    steps = [correlation(turned, np.roll(turned, by, axis=1)) for by in (1, 18)]
    assert steps[0] > 0.95 > steps[1]


def test_yale_has_38_subjects_looking_at_us(dataset):
    data = dataset("yale-b")
    train, validation = data.train, data.splits["validation"]
    assert (len(train), len(validation)) == (2200, 214)
    both = [a + b for a, b in zip(counts(train, 1), counts(validation, 1), strict=True)]
    assert both == YALE
    # The mean face is the same left and right, and not above and below.
    face = np.asarray(train.x).reshape(-1, 32, 32).mean(axis=0)
    assert correlation(face, face[:, ::-1]) > 0.9 > 0.5 > correlation(face, face[::-1])


def test_isolet_has_each_letter_twice_of_each_speaker_but_three(dataset):
    apart, together = dataset("isolet"), dataset("isolet-7797")
    train, test = [240] * 26, [60] * 26
    train[5], test[12] = 238, 59  # F and M
    assert counts(apart.train, 1) == train
    assert counts(apart.splits["test"], 1) == test
    assert counts(together.train, 1) == [a + b for a, b in zip(train, test)]
    assert together.train.x.shape == (7797, 617)
    assert together.certificate["splits"]["train"]["distinct_rows"] == 7797
    # Four decimals, as in the text.
    values = np.asarray(together.train.x, dtype=np.float64) * 1e4
    assert np.abs(values - np.rint(values)).max() < 1e-2


def test_isolet_packed_by_compress_and_in_another_order_gives_the_same_arrays(dataset, tmp_path):
    raw, options = fetch("isolet", tmp_path / "raw", mirror=MIRROR), isolet.Options()
    files = {}
    for name in ("isolet1+2+3+4.data", "isolet5.data"):
        lines = open_bytes(raw / name).splitlines(keepends=True)
        files[name] = tmp_path / name
        files[name].write_bytes(ncompress.compress(b"".join(lines[::2] + lines[1::2])))
    (tmp_path / "out").mkdir()
    isolet.prepare(files, options, Writer(tmp_path / "out", isolet.describe(options)))
    for split, parts in dataset("isolet").splits.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"out/{split}.npy"), parts.x)
