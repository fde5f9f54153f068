"""The real files of the image datasets: what is known of them, where a mirror is at hand (DGMBENCH_MIRROR)."""

import hashlib
import os
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from dgmbench.data import certificate
from dgmbench.data.archives import members, open_bytes
from dgmbench.data.catalogue import resolve
from dgmbench.data.draws import noise24, stream
from dgmbench.data.fetch import fetch
from dgmbench.data.images import decode, fitted, whole
from dgmbench.data.patches import grey
from dgmbench.data.prepare import open_dataset, prepare
from dgmbench.files import md5_file, read_json

MIRROR = os.environ.get("DGMBENCH_MIRROR")
pytestmark = pytest.mark.skipif(not MIRROR, reason="DGMBENCH_MIRROR names no mirror of the real files")
# Published MD5 sums: of the .gz, and of what is in it.
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte.gz": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte.gz": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte.gz": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
}
MNIST_LABELS = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}
ROWS = {
    "mnist": (60_000, None, 10_000),
    "mnist-50k": (50_000, 10_000, 10_000),
    "mnist-55k": (55_000, 5_000, 10_000),
    "mnist-dynamic": (50_000, 10_000, 10_000),
    "omniglot-105": (23_045, 1_345, 8_070),
    "tiny8x8": (45_000, 5_000, 10_000),
    "bsd68": (None, None, 68),
    "set12": (None, None, 12),
    "set5": (None, None, 5),
    "set14": (None, None, 14),
}
# Two people drew the first character of Braille, a dot, as the same pixels: no other row is there twice.
TWICE = {("omniglot-105", "train"): 1}
# Prepared in about a second. A certificate holds the checksum of every array, so that equal ones mean equal bytes.
TWO_TIMES = ("mnist-dynamic", "tiny8x8", "bsd68", "set12", "set5", "set14")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")

    def get(name):
        return fetch(name, folder, mirror=MIRROR)

    return get


@pytest.fixture(scope="module")
def dataset(raw, tmp_path_factory):
    """A dataset with the options of its entry, fetched and prepared once and verified."""
    root, ready = tmp_path_factory.mktemp("prepared"), {}

    def get(name):
        if name not in ready:
            folder = prepare(resolve(name), raw(name).parent, root)
            assert certificate.verify(folder) == []
            ready[name] = open_dataset(folder)
        return ready[name]

    return get


@pytest.fixture(scope="module")
def bsds300(raw):
    """Grey pixels of the 300 photographs, by half and number."""
    found = members(raw("bsds300") / "BSDS300-images.tgz", "*.jpg")
    return {(PurePosixPath(n).parts[-2], int(PurePosixPath(n).stem)): grey(n, content) for n, content in found}


@pytest.mark.parametrize("name", ROWS)
def test_splits_have_their_sizes_and_share_no_row(dataset, name):
    data = dataset(name)
    expected = {split: n for split, n in zip(("train", "validation", "test"), ROWS[name]) if n}
    facts = data.certificate["splits"]
    assert {split: told["rows"] for split, told in facts.items()} == expected
    assert set(data.certificate["shared_rows"].values()) <= {0}
    assert set(data.certificate["shared_groups"].values()) <= {0}
    repeated = {(name, split): told["rows"] - told["distinct_rows"] for split, told in facts.items()}
    assert {key: count for key, count in repeated.items() if count} == {k: n for k, n in TWICE.items() if k[0] == name}


def test_mnist_is_the_published_file(raw):
    for name, (packed, content) in MNIST_MD5.items():
        path = raw("mnist") / name
        assert md5_file(path) == packed
        assert hashlib.md5(open_bytes(path)).hexdigest() == content


def test_mnist_has_its_digits_and_means(dataset):
    data = dataset("mnist")
    for split, mean in (("train", 0.13066), ("test", 0.13251)):
        assert np.bincount(data.splits[split].labels).tolist() == MNIST_LABELS[split]
        assert round(data.certificate["splits"][split]["mean"], 5) == mean
    # Upright: a one is higher than wide, and the bar of a seven is at its top.
    one, seven = (np.asarray(data.test.x)[np.asarray(data.test.labels) == d].mean(axis=0) for d in (1, 7))
    one, seven = one.reshape(28, 28), seven.reshape(28, 28)
    assert one.max(axis=0)[:7].max() < 0.1 < one.max(axis=1)[6]
    assert (seven[8:12] > 0.2).sum() > 1.5 * (seven[18:22] > 0.2).sum()


@pytest.mark.parametrize(("name", "cut"), [("mnist-50k", 50_000), ("mnist-55k", 55_000)])
def test_the_last_mnist_images_of_the_file_validate(dataset, raw, name, cut):
    data, path = dataset(name), raw(name)
    pixels = np.frombuffer(open_bytes(path / "train-images-idx3-ubyte.gz"), np.uint8, offset=16).reshape(60_000, 784)
    labels = np.frombuffer(open_bytes(path / "train-labels-idx1-ubyte.gz"), np.uint8, offset=8)
    for split, rows in (("train", slice(0, cut)), ("validation", slice(cut, None))):
        np.testing.assert_array_equal(np.rint(data.splits[split].x * 255), pixels[rows])
        np.testing.assert_array_equal(data.splits[split].labels, labels[rows])
    np.testing.assert_array_equal(data.test.x, dataset("mnist").test.x)


def test_dynamic_mnist_has_the_means_of_the_grey_values(dataset):
    data, plain = dataset("mnist-dynamic"), dataset("mnist-50k")
    np.testing.assert_array_equal(data.train.x, plain.train.x)
    for split in ("validation", "test"):
        bits, values = np.asarray(data.splits[split].x), np.asarray(plain.splits[split].x, dtype=np.float64)
        # The mean of n independent bits has the variance sum v (1 - v) / n^2: six standard deviations.
        variance = (values * (1 - values)).sum(axis=0)
        assert abs(bits.mean() - values.mean()) < 6 * np.sqrt(variance.sum()) / values.size
        # A pixel that is grey in one image of 10,000 is far from normal: only those that are drawn often are held.
        often = variance > 50
        assert often.sum() > 400
        assert (np.abs(bits.sum(axis=0) - values.sum(axis=0))[often] < 6 * np.sqrt(variance[often])).all()


def test_omniglot_has_20_drawings_of_each_of_its_characters(dataset, raw):
    for archive, characters, alphabets in (("images_background.zip", 964, 30), ("images_evaluation.zip", 659, 20)):
        with zipfile.ZipFile(raw("omniglot-105") / archive) as content:
            names = [PurePosixPath(name) for name in content.namelist() if name.endswith(".png")]
        assert len({name.parent for name in names}) == characters
        assert len({name.parent.parent for name in names}) == alphabets
    data = dataset("omniglot-105")
    together = sum(np.bincount(parts.labels, minlength=1623) for parts in data.splits.values())
    assert together.tolist() == [20] * 1623
    for facts in data.certificate["splits"].values():
        # Ink on nothing, and the same much of it in every split.
        assert 0.079 < facts["mean"] < 0.082
        assert facts["min"] == 0
        assert facts["max"] == 1
    # Values are whole 225ths.
    sums = np.asarray(data.test.x, dtype=np.float64) * 225
    assert np.abs(sums - np.rint(sums)).max() < 1e-4


def test_omniglot_rows_are_the_drawings_by_name(dataset, raw):
    """Every row of the evaluation set's first character, reduced on its own, to the grey level."""
    data = dataset("omniglot-105")
    content = sorted(members(raw("omniglot-105") / "images_evaluation.zip", "*/Angelic/character01/*.png"))
    assert len(content) == 20
    rows = np.concatenate([np.rint(parts.x * 255) for parts in data.splits.values()])
    labels = np.concatenate([parts.labels for parts in data.splits.values()])
    found = [fitted(name, 255 - decode(name, body, colour=False), 28, 28, "area").ravel() for name, body in content]
    where = [np.abs(rows - image).max(axis=1).argmin() for image in found]
    assert max(np.abs(rows[row] - image).max() for row, image in zip(where, found)) <= 1
    assert len(set(where)) == 20
    assert len(set(labels[where])) == 1


def test_tiny_images_are_ten_classes_in_63_values_of_which_the_pixels_can_be_told(dataset, raw):
    data = dataset("tiny8x8")
    labels = np.concatenate([data.train.labels, data.validation.labels])
    assert np.bincount(labels).tolist() == [5000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.shape == (63,)
    with np.load(raw("tiny8x8") / "cifar10_gray8x8.npz", allow_pickle=False) as archive:
        pixels = archive["x_test"].reshape(10_000, 64)
    noise = noise24(stream(0, 30, 3), pixels.size).reshape(pixels.shape) / 2**24
    u = (pixels + noise) / 256
    np.testing.assert_allclose(data.test.x, (u - u.mean(axis=1, keepdims=True))[:, :-1], atol=1e-7)
    # Smooth images: neighbours in a row agree far more than pixels of different rows.
    x = data.test.x[:, :56].reshape(-1, 7, 8)
    assert np.corrcoef(x[:, :, :-1].ravel(), x[:, :, 1:].ravel())[0, 1] > 0.6


def test_bsd68_is_the_luma_of_photographs_of_the_test_half_of_bsds300(dataset, bsds300):
    data = dataset("bsd68")
    numbers, images = data.certificate["notes"]["bsds_numbers"], whole(data, "test")
    assert set(data.splits) == {"test"}
    assert len(set(numbers)) == 68
    assert {("test", number) for number in numbers} <= bsds300.keys()
    assert {number for half, number in bsds300 if half == "train"}.isdisjoint(numbers)
    differences = [
        np.abs(np.rint(image * 255) - bsds300["test", number]).max() for number, image in zip(numbers, images)
    ]
    assert max(differences) <= 1.5
    sizes = [image.shape for image in images]
    assert (sizes.count((321, 481)), sizes.count((481, 321))) == (53, 15)


def test_bsd68_has_the_numbers_of_the_published_list(dataset):
    listed = Path(MIRROR) / "bsds/bsd68_ids.txt"
    if not listed.is_file():
        pytest.skip(f"{MIRROR} holds no bsds/bsd68_ids.txt: the list is no file of the catalogue")
    numbers = [int(line) for line in listed.read_text().split()]
    assert len(numbers) == 68
    assert sorted(dataset("bsd68").certificate["notes"]["bsds_numbers"]) == numbers


@pytest.mark.parametrize("name", TWO_TIMES)
def test_prepared_again_is_the_same_to_the_byte(dataset, raw, tmp_path, name):
    first, again = dataset(name), prepare(resolve(name), raw(name).parent, tmp_path)
    assert read_json(again / certificate.FILE) == first.certificate
    assert certificate.verify(again) == []


def test_bsds300_has_200_and_100_photographs_and_none_in_both_halves(bsds300):
    halves = {half: {n for h, n in bsds300 if h == half} for half in ("train", "test")}
    assert {half: len(numbers) for half, numbers in halves.items()} == {"train": 200, "test": 100}
    assert len({hashlib.sha256(image).digest() for image in bsds300.values()}) == 300
    assert {image.shape for image in bsds300.values()} == {(321, 481), (481, 321)}


def test_set12_has_seven_small_and_five_large_images(dataset):
    sizes = [image.shape for image in whole(dataset("set12"), "test")]
    assert sizes == [(256, 256)] * 7 + [(512, 512)] * 5


@pytest.mark.parametrize(("name", "grey_ones", "largest"), [("set5", 0, (512, 512, 3)), ("set14", 2, (656, 768, 3))])
def test_set5_and_set14_are_in_colour(dataset, name, grey_ones, largest):
    data = dataset(name)
    images = whole(data, "test")
    assert data.shape == largest
    assert sum(bool((image == image[:, :, :1]).all()) for image in images) == grey_ones
    assert tuple(max(image.shape[axis] for image in images) for axis in range(3)) == largest
    # Nothing of an image lies outside of what its size says.
    inside = sum(image.sum(dtype=np.float64) for image in images)
    assert data.splits["test"].x.sum(dtype=np.float64) == pytest.approx(inside)
