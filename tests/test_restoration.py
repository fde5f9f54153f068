"""Whole photographs for restoration, from a small made archive: sizes, order, numbers and what is refused."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image
from samples import restoration as sample

from dgmbench.data.archives import members
from dgmbench.data.datasets import restoration
from dgmbench.data.loading import Writer
from dgmbench.errors import UserError

SIZES = {"a.png": [20, 30], "b.png": [30, 20], "c.bmp": [20, 30]}


@pytest.fixture
def files(tmp_path, monkeypatch):
    return sample.make(tmp_path, monkeypatch)[0]


@pytest.fixture
def prepared(files, tmp_path):
    made = iter(range(100))

    def prepare(given=None, **options):
        folder = tmp_path / str(next(made))
        folder.mkdir()
        chosen = restoration.Options(**{"images": 3, "height": 30, "width": 30} | options)
        writer = Writer(folder, restoration.describe(chosen))
        restoration.prepare(given or files, chosen, writer)
        assert restoration.splits(chosen) == ("test",)
        return {array.stem: np.load(array) for array in folder.glob("*.npy")}, writer.notes

    return prepare


def pixels(files):
    found = members(files["Set3.zip"])
    return {name: np.asarray(Image.open(io.BytesIO(body))) for name, body in found if not name.endswith("/")}


def rewritten(path, edit):
    with zipfile.ZipFile(path) as archive:
        content = edit({info.filename: archive.read(info) for info in archive.infolist()})
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in content.items():
            archive.writestr(name, body)


def test_each_image_lies_at_the_top_left_of_a_canvas_of_zeros(files, prepared):
    found, notes = prepared()
    assert set(found) == {"test", "test_groups"}
    assert notes["sizes"] == {"test": list(SIZES.values())}
    assert notes["images"] == list(SIZES)
    assert notes["bsds_numbers"] == [101, 102, 103]
    for row, (name, (height, width)) in enumerate(SIZES.items()):
        canvas = np.zeros((30, 30), dtype=np.float32)
        canvas[:height, :width] = pixels(files)[f"Set3/{name}"] / np.float32(255)
        np.testing.assert_array_equal(found["test"][row].reshape(30, 30), canvas)
    np.testing.assert_array_equal(found["test_groups"], [0, 1, 2])


def test_grey_images_have_three_equal_channels_where_colour_is_asked_for(prepared):
    (grey, _), (colour, _) = prepared(), prepared(colour=True)
    np.testing.assert_array_equal(colour["test"].reshape(3, 900, 3), np.repeat(grey["test"][..., None], 3, axis=2))


def test_prepared_twice_and_from_another_order_gives_the_same_bytes(files, prepared):
    (one, notes), (two, _) = prepared(), prepared()
    rewritten(files["Set3.zip"], lambda content: dict(reversed(content.items())))
    files["names.tsv"].write_text("".join(reversed(files["names.tsv"].read_text().splitlines(keepends=True))))
    three, again = prepared()
    assert one["test"].tobytes() == two["test"].tobytes() == three["test"].tobytes()
    assert again == notes


def test_without_a_list_of_numbers_there_is_no_note_of_them(files, prepared):
    assert "bsds_numbers" not in prepared({"Set3.zip": files["Set3.zip"]})[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"images": 2}, "holds 3 images, not 2"),
        ({"height": 31}, r"the largest sides are \(30, 30\), not \(31, 30\)"),
        ({"width": 29}, r"the largest sides are \(30, 30\), not \(30, 29\)"),
    ],
)
def test_another_archive_than_declared_is_refused(prepared, options, told):
    with pytest.raises(UserError, match=rf"^Set3\.zip.* {told}"):
        prepared(**options)


def test_a_damaged_image_is_named(files, prepared):
    rewritten(files["Set3.zip"], lambda content: content | {"Set3/b.png": content["Set3/b.png"][:-30]})
    with pytest.raises(UserError, match=r"^Set3\.zip: Set3/b\.png is not an image that can be read"):
        prepared()


@pytest.mark.parametrize(
    "lines",
    ["", "a.png\t1\nb.png\t2\n", "a.png\t1\nb.png\t2\nd.bmp\t3\n", "a.png\t1\nb.png\t2\nc.bmp\tx\n", "a.png 1\n" * 3,
     "a.png\t1\nb.png\t2\nc.bmp\t3\nc.bmp\t3\n"],
)  # fmt: skip
def test_a_list_of_other_names_or_numbers_is_refused(files, prepared, lines):
    files["names.tsv"].write_text(lines)
    with pytest.raises(UserError, match=r"^names\.tsv is not one line with a name, a tab and a number for each of 3"):
        prepared()
