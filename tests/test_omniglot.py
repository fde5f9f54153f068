"""OMNIGLOT in both forms, from small made files: the right way round, exact areas, and a split by names."""

import importlib
import io
import random
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import scipy.io
from PIL import Image

from dgmbench.data.archives import members
from dgmbench.data.datasets import omniglot_mat, omniglot_png
from dgmbench.data.loading import Writer
from dgmbench.errors import UserError


def sample(name):
    return importlib.import_module(f"samples.{name}")


@pytest.fixture
def prepared(tmp_path):
    made = iter(range(100))

    def prepare(loader, files, **options):
        folder = tmp_path / f"out{next(made)}"
        folder.mkdir()
        chosen = loader.Options(**options)
        writer = Writer(folder, loader.describe(chosen))
        loader.prepare(files, chosen, writer)
        found = {array.stem: np.load(array) for array in folder.glob("*.npy")}
        assert set(loader.splits(chosen)) == {name for name in found if "_" not in name}
        return found

    return prepare


@pytest.fixture
def mat(tmp_path, monkeypatch):
    return sample("omniglot_mat").make(tmp_path, monkeypatch)[0]


@pytest.fixture
def drawings(tmp_path, monkeypatch):
    return sample("omniglot_png").make(tmp_path, monkeypatch)[0]


def change(path, **variables):
    held = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    scipy.io.savemat(path, {name: value for name, value in (held | variables).items() if value is not None})


def rewritten(path, edit):
    """The archive with its list of members changed."""
    with zipfile.ZipFile(path) as archive:
        content = edit([(info.filename, archive.read(info)) for info in archive.infolist()])
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in content:
            archive.writestr(name, body)


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def test_columns_become_upright_images(mat, prepared):
    """An L: its stem down the left side, its foot along the bottom, stored column by column."""
    letter = np.zeros((28, 28))
    letter[4:24, 6], letter[23, 6:15] = 1, 0.5
    images = scipy.io.loadmat(mat["chardata.mat"])["testdata"]
    images[:, 3] = letter.ravel(order="F")
    change(mat["chardata.mat"], testdata=images)
    found = prepared(omniglot_mat, mat, validation=10, binarize="none")
    np.testing.assert_array_equal(found["test"][3].reshape(28, 28), letter)
    assert not np.array_equal(letter, letter.T)


def test_the_last_training_images_validate_and_labels_are_alphabets(mat, prepared):
    held = scipy.io.loadmat(mat["chardata.mat"])
    found = prepared(omniglot_mat, mat, validation=10, binarize="none")
    upright = held["data"].T.reshape(-1, 28, 28).transpose(0, 2, 1).reshape(-1, 784).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([found["train"], found["validation"]]), upright)
    labels = np.concatenate([found["train_labels"], found["validation_labels"]])
    np.testing.assert_array_equal(held["target"][labels, np.arange(40)], np.ones(40))
    assert (len(found["train"]), len(found["validation"]), len(found["test"])) == (30, 10, 20)


def test_by_default_training_images_stay_grey_and_the_others_are_drawn_once(mat, prepared):
    one, two = prepared(omniglot_mat, mat, validation=10), prepared(omniglot_mat, mat, validation=10)
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    assert {split: one[split].dtype for split in ("train", "validation", "test")} == {
        "train": np.float32,
        "validation": np.uint8,
        "test": np.uint8,
    }
    other = prepared(omniglot_mat, mat, validation=10, seed=2)
    np.testing.assert_array_equal(one["train"], other["train"])
    assert not np.array_equal(one["test"], other["test"])


ONEHOT = np.eye(50)[np.zeros(40, dtype=int)].T


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"data": np.zeros((784, 39))}, "'data' is .784, 39., not 40 columns"),
        ({"data": np.zeros((40, 784))}, "'data' is .40, 784., not 40 columns"),
        ({"data": np.full((784, 40), 1.5)}, "values from 0 to 1"),
        ({"data": np.full((784, 40), -0.1)}, "values from 0 to 1"),
        ({"data": np.full((784, 40), np.nan)}, "values from 0 to 1"),
        ({"target": ONEHOT[:49]}, "'target' is .49, 40."),
        ({"target": ONEHOT * 0}, "one alphabet a column"),
        ({"target": ONEHOT + ONEHOT[::-1]}, "one alphabet a column"),
        ({"target": ONEHOT * 2}, "one alphabet a column"),
        ({"testtarget": None}, "no variable 'testtarget'"),
    ],
)
def test_another_matrix_is_refused_with_its_name(mat, prepared, variables, told):
    change(mat["chardata.mat"], **variables)
    with pytest.raises(UserError, match=rf"^chardata\.mat.* {told}"):
        prepared(omniglot_mat, mat, validation=10)


def area_means(ink):
    """Mean over each of 28 x 28 areas of 3.75 x 3.75 pixels, pixel by pixel in fractions."""
    side = Fraction(105, 28)

    def parts(cell):
        low, high = cell * side, (cell + 1) * side
        return [(x, min(high, x + 1) - max(low, x)) for x in range(int(low), min(105, int(high) + 1))]

    return [
        [sum(h * w * int(ink[y, x]) for y, h in parts(row) for x, w in parts(column)) / side**2 for column in range(28)]
        for row in range(28)
    ]


def test_areas_are_averaged_exactly():
    rng = np.random.default_rng(0)
    ink = np.stack([rng.random((105, 105)) < p for p in (0.1, 0.5)] + [np.ones((105, 105), bool)])
    found = omniglot_png.reduced(ink).reshape(3, 28, 28)
    for drawing, image in zip(ink, found):
        means = area_means(drawing)
        assert [[Fraction(int(value), 225) for value in row] for row in image] == means
    assert (found[2] == 225).all()


def test_drawings_are_ink_on_nothing_the_right_way_round(drawings, prepared):
    """A stroke of ink, black in the file, along the top of one drawing."""
    paper = np.ones((105, 105), dtype=bool)
    paper[:15] = False
    name = "images_background/Greek/character01/0001_07.png"
    rewritten(
        drawings["images_background.zip"], lambda content: [(n, png(paper) if n == name else b) for n, b in content]
    )
    found = prepared(omniglot_png, drawings, validation=0, test=0)
    stroke = np.zeros((28, 28), dtype=np.float32)
    stroke[:4] = 1
    rows = np.flatnonzero((found["train"] == stroke.ravel()).all(axis=1))
    assert len(rows) == 1
    assert found["train_labels"][rows[0]] == 0


def test_every_image_is_in_the_same_split_whatever_the_order_of_the_archive(drawings, prepared):
    first = prepared(omniglot_png, drawings, validation=5, test=10)
    again = prepared(omniglot_png, drawings, validation=5, test=10)
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    for path in drawings.values():
        rewritten(path, lambda content: random.Random(1).sample(content, len(content)))
    shuffled = prepared(omniglot_png, drawings, validation=5, test=10)
    assert all(first[name].tobytes() == shuffled[name].tobytes() for name in first)
    assert [len(first[split]) for split in ("train", "validation", "test")] == [45, 5, 10]


def test_the_size_of_a_block_does_not_change_the_result(drawings, prepared, monkeypatch):
    whole = prepared(omniglot_png, drawings, validation=5, test=10)
    monkeypatch.setattr(omniglot_png, "_BLOCK", 7)
    blocks = prepared(omniglot_png, drawings, validation=5, test=10)
    assert all(whole[name].tobytes() == blocks[name].tobytes() for name in whole)


def test_labels_are_characters_in_the_order_of_alphabets_and_numbers(drawings, prepared):
    found = prepared(omniglot_png, drawings, validation=0, test=0)
    kinds = {"Greek/character01": 0, "Greek/character02": 1, "Keble/character01": 2}
    expected = {}
    for archive in drawings.values():
        for name, body in members(archive, "*.png"):
            ink = np.asarray(Image.open(io.BytesIO(body)).convert("L")) == 0
            image = omniglot_png.reduced(ink[None])[0] / np.float32(225)
            expected[image.tobytes()] = kinds["/".join(name.split("/")[1:3])]
    assert [expected[row.tobytes()] for row in found["train"]] == found["train_labels"].tolist()
    assert np.bincount(found["train_labels"]).tolist() == [20, 20, 20]


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda content: content[1:], "does not hold 2 characters with 20 drawings each"),
        (lambda content: content[20:], "does not hold 2 characters with 20 drawings each"),
        (lambda content: [], "does not hold 2 characters with 20 drawings each"),
        (lambda content: [(content[0][0], png(np.ones((104, 105), bool))), *content[1:]], "not a drawing of 105 x 105"),
        (
            lambda content: [(content[0][0], png(np.full((105, 105), 7, np.uint8))), *content[1:]],
            "0001_01.png is not a drawing of 105 x 105 in black and white",
        ),
        (lambda content: [(content[0][0], b"text"), *content[1:]], "0001_01.png is not an image that can be read"),
    ],
)
def test_another_archive_is_refused_with_its_name(drawings, prepared, edit, told):
    rewritten(drawings["images_background.zip"], edit)
    with pytest.raises(UserError, match=rf"^images_background\.zip.*{told}"):
        prepared(omniglot_png, drawings, validation=5, test=10)


def test_too_few_drawings_are_told(drawings, mat, prepared):
    with pytest.raises(UserError, match="60 drawings leave none to train on: lower `validation` or `test`"):
        prepared(omniglot_png, drawings, validation=30, test=30)
    with pytest.raises(UserError, match="40 training images leave none beside 40: lower `validation`"):
        prepared(omniglot_mat, mat, validation=40)
