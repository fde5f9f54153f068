"""The loader `images`: a folder or archive of images of one's own, from small made ones."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from dgmbench.data import certificate
from dgmbench.data.datasets import images
from dgmbench.data.folder import matching, pack
from dgmbench.data.images import decode, fitted
from dgmbench.data.loading import Writer
from dgmbench.data.splitting import split_rows
from dgmbench.errors import UserError

HEIGHT, WIDTH = 6, 8
RNG = np.random.default_rng(0)
PIXELS = {
    f"{folder}/{number}.png": RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for folder in ("cats", "dogs/large", "dogs/small")
    for number in range(10)
}
SPLIT = {split: [sorted(PIXELS)[row] for row in rows] for split, rows in split_rows(30, 3, 6, 0).items()}


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


CONTENT = {name: encoded(image) for name, image in PIXELS.items()}


def zipped(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in content.items():
            archive.writestr(name, body)
    return path


def tarred(path, content, mode):
    with tarfile.open(path, mode) as archive:
        for name, body in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return path


@pytest.fixture
def prepared(tmp_path):
    made = iter(range(100))

    def prepare(content=CONTENT, **options):
        folder = tmp_path / str(next(made))
        folder.mkdir()
        path = content if not isinstance(content, dict) else zipped(folder / "own.zip", content)
        chosen = images.Options(**{"height": HEIGHT, "width": WIDTH, "colour": True} | options)
        out = folder / "out"
        out.mkdir()
        writer = Writer(out, images.describe(chosen))
        images.prepare({path.name: path}, chosen, writer)
        certificate.evidence(out, writer.description)
        found = {array.stem: np.load(array) for array in out.glob("*.npy")}
        assert set(images.splits(chosen)) == {name for name in found if "_" not in name}
        return found, writer.notes

    return prepare


def test_rows_are_the_images_in_a_seeded_order_of_their_names(prepared):
    found, notes = prepared()
    assert set(found) == {"train", "validation", "test"}
    for split, names in SPLIT.items():
        expected = np.stack([PIXELS[name].ravel() for name in names]) / np.float32(255)
        np.testing.assert_array_equal(found[split], expected)
        assert found[split].dtype == np.float32
    assert "order" in notes
    assert "passed_over" not in notes


def test_archives_of_any_kind_and_order_and_a_folder_give_the_same_bytes(prepared, tmp_path):
    backwards = dict(reversed(CONTENT.items()))
    for name, body in CONTENT.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_bytes(body)
    pack(matching(tmp_path / "own", "*.png"), tmp_path / "packed.zip")
    first, _ = prepared(labels=True)
    for path in (
        zipped(tmp_path / "a.zip", backwards),
        tarred(tmp_path / "a.tar", backwards, "w"),
        tarred(tmp_path / "a.tgz", CONTENT, "w:gz"),
        tmp_path / "packed.zip",
    ):
        again, _ = prepared(path, labels=True)
        assert first.keys() == again.keys()
        assert all(first[name].tobytes() == again[name].tobytes() for name in first)


def test_another_seed_gives_other_splits(prepared):
    assert not np.array_equal(prepared()[0]["test"], prepared(seed=1)[0]["test"])


def test_labels_are_folders_by_their_whole_path(prepared):
    """Two folders of one name are two kinds: alphabets/greek/1 is not alphabets/latin/1."""
    found, notes = prepared(labels=True)
    for split, names in SPLIT.items():
        kinds = ["cats", "dogs/large", "dogs/small"]
        np.testing.assert_array_equal(found[f"{split}_labels"], [kinds.index(n.rpartition("/")[0]) for n in names])
    assert notes["labels"] == "the folder of an image: 0 cats, 1 dogs/large, 2 dogs/small"
    assert not [name for name in prepared()[0] if name.endswith("labels")]


def test_grey_inverted_and_threshold(prepared):
    grey = np.stack([decode(n, CONTENT[n], colour=False).ravel() for n in SPLIT["train"]])
    np.testing.assert_array_equal(prepared(colour=False)[0]["train"], grey / np.float32(255))
    np.testing.assert_array_equal(prepared(colour=False, invert=True)[0]["train"], (255 - grey) / np.float32(255))
    # 102 / 255 is the threshold exactly.
    found, notes = prepared(colour=False, threshold=0.4)
    assert found["train"].dtype == np.uint8
    np.testing.assert_array_equal(found["train"], grey >= 102)
    assert "0.4" in notes["binarization"]
    both = prepared(colour=False, threshold=0.4, invert=True)[0]["train"]
    np.testing.assert_array_equal(both, 255 - grey >= 102)
    assert (grey == 102).any()
    assert (grey == 153).any()


@pytest.mark.parametrize("fit", ["area", "crop"])
def test_mixed_sizes_are_fitted(prepared, fit):
    rng, sizes = np.random.default_rng(1), [(6, 8), (12, 9), (7, 40), (30, 8)] * 5
    made = {f"{i:02}.png": rng.integers(0, 256, size, dtype=np.uint8) for i, size in enumerate(sizes)}
    found, _ = prepared({n: encoded(image) for n, image in made.items()}, colour=False, fit=fit, validation=0, test=0)
    expected = {fitted(n, image, HEIGHT, WIDTH, fit).tobytes() for n, image in made.items()}
    assert len(expected) == 20
    assert {np.rint(row * 255).astype(np.uint8).tobytes() for row in found["train"]} == expected


def test_another_size_is_told_where_it_must_be_exact(prepared):
    odd = CONTENT | {"cats/odd.png": encoded(PIXELS["cats/0.png"][:5])}
    with pytest.raises(UserError, match=r"own\.zip: cats/odd\.png is 5 x 8, not 6 x 8"):
        prepared(odd, fit="exact")


def test_what_is_no_image_is_passed_over_and_counted(prepared):
    others = {"notes.txt": b"a", "more/NOTES.TXT": b"b", "Makefile": b"c", ".DS_Store": b"d", "cats/._0.png": b"e"}
    found, notes = prepared(CONTENT | others)
    np.testing.assert_array_equal(found["train"], prepared()[0]["train"])
    assert notes["passed_over"] == {".txt": 2, "hidden": 2, "no suffix": 1}


def test_suffixes_in_capitals_and_of_several_kinds_count(prepared):
    made = {f"{i}.PNG": encoded(PIXELS["cats/0.png"]) for i in range(5)}
    made |= {f"{i}.{kind}": encoded(PIXELS["cats/1.png"], kind.upper()) for i in range(5) for kind in ("bmp", "Jpeg")}
    assert len(prepared(made, validation=0, test=0)[0]["train"]) == 15


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("cats/0.png", CONTENT["cats/0.png"][:-30], "is not an image that can be read"),
        ("cats/new.jpg", b"", "is not an image that can be read"),
        ("cats/new.png", encoded(np.dstack([PIXELS["cats/0.png"], np.zeros((6, 8), np.uint8)])), "`background`"),
    ],
)
def test_a_member_that_cannot_be_taken_is_named(prepared, name, body, told):
    with pytest.raises(UserError, match=rf"^own\.zip: {name} .*{told}"):
        prepared(CONTENT | {name: body})


def test_a_background_lies_under_transparent_pixels(prepared):
    clear = encoded(np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8))
    found, _ = prepared({f"{i}.png": clear for i in range(3)}, background=51, validation=0, test=0)
    assert np.unique(found["train"]) == np.float32(0.2)


@pytest.mark.parametrize(
    ("count", "options", "told"),
    [
        (0, {"validation": 0, "test": 0}, r"holds 0 images, too few to prepare: add some \(\.png, "),
        (2, {"validation": 0}, "holds 2 images, too few for a test split"),
        (4, {}, "holds 4 images, too few for a validation split"),
        (2, {"validation": 0.5, "test": 0.49}, "leave|cannot give 1 for validation and 1 for testing"),
    ],
)
def test_too_few_images_are_told(prepared, count, options, told):
    with pytest.raises(UserError, match=told):
        prepared({"notes.txt": b"no image"} | dict(list(CONTENT.items())[:count]), **options)


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ValueError, match="leave nothing to train on"):
        images.Options(height=1, width=1, validation=0.5, test=0.5)


def test_only_one_file_is_read(tmp_path):
    options = images.Options(height=1, width=1)
    with pytest.raises(UserError, match="exactly one folder or archive, but the entry names 2"):
        images.prepare({"a": tmp_path, "b": tmp_path}, options, Writer(tmp_path, images.describe(options)))
