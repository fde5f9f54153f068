"""Preparing: equal inputs give equal bytes, nothing half-made stays, and the arrays are what the equations say."""

import errno
import gzip
import hashlib
import io
import os
import tarfile
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from dgmbench.data import catalogue, certificate, draws, patches
from dgmbench.data.archives import content_sha256
from dgmbench.data.catalogue import resolve
from dgmbench.data.datasets import mnist_static
from dgmbench.data.fetch import fetch
from dgmbench.data.loading import Description, Writer
from dgmbench.data.prepare import open_dataset, prepare
from dgmbench.errors import UserError


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Adds an entry for files of the user's own, prepares it and opens it."""
    folder = tmp_path / "catalogue"
    folder.mkdir()
    monkeypatch.setattr(catalogue, "CATALOGUE", folder)

    def add(files, loader="array", members=None, **options):
        entry = {"name": "made", "title": "t", "version": "1", "description": "d", "licence": "l", "citation": "c"}
        entry |= {"homepage": "h", "loader": loader, "options": options, "files": []}
        for name, content in files.items():
            path = tmp_path / name
            path.write_bytes(content)
            checks = {"sha256": hashlib.sha256(content).hexdigest()}
            if members:
                checks = {"content_sha256": content_sha256(path, members), "members": members}
            entry["files"].append({"name": name, "path": str(path), **checks})
        (folder / "made.yaml").write_text(yaml.safe_dump(entry))
        catalogue._read_version.cache_clear()
        fetch("made", tmp_path / "raw")
        return resolve("made")

    return add


def made(ref, tmp_path, where="prepared"):
    return open_dataset(prepare(ref, tmp_path / "raw", tmp_path / where))


def saved(save, *args, **kwargs) -> bytes:
    stream = io.BytesIO()
    save(stream, *args, **kwargs)
    return stream.getvalue()


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


TABLE = np.arange(60, dtype=np.float32).reshape(20, 3) / 60


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.npy", saved(np.save, TABLE), {}),
        ("a.npz", saved(np.savez, x=TABLE, other=TABLE[:2]), {"array": "x"}),
        ("a.csv", pd.DataFrame(TABLE).to_csv(index=False, header=False).encode(), {}),
        ("a.csv", pd.DataFrame(TABLE, columns=list("abc")).to_csv(index=False).encode(), {}),
        ("a.csv.gz", gzip.compress(pd.DataFrame(TABLE).to_csv(index=False, header=False).encode(), mtime=0), {}),
        (
            "a.parquet",
            saved(lambda stream, frame: frame.to_parquet(stream), pd.DataFrame(TABLE, columns=list("abc"))),
            {},
        ),
    ],
)
def test_an_own_array_is_split_without_losing_or_repeating_a_row(own, tmp_path, name, content, options):
    data = made(own({name: content}, values="unit", shape=[3], **options), tmp_path)
    assert [len(split) for split in data.splits.values()] == [14, 2, 4]
    rows = np.concatenate([split.x for split in data.splits.values()])
    np.testing.assert_allclose(rows[np.argsort(rows[:, 0])], TABLE, rtol=1e-6)
    assert set(data.certificate["shared_rows"].values()) == {0}
    assert list(data.splits) == ["train", "validation", "test"]


def test_bytes_of_images_with_labels_keep_their_labels(own, tmp_path):
    images = (np.arange(30)[:, None, None] * np.ones((2, 2))).astype(np.uint8)
    content = saved(np.savez, x=images, y=np.arange(30))
    ref = own({"a.npz": content}, values="unit", shape=[2, 2], array="x", labels="y", scale=30)
    data = made(ref, tmp_path)
    assert data.shape == (2, 2)
    for split in data.splits.values():
        np.testing.assert_allclose(split.x[:, 3] * 30, split.labels, rtol=1e-6)


def test_groups_are_never_split(own, tmp_path):
    frame = pd.DataFrame({"a": np.arange(40.0), "who": np.arange(40) // 4})
    ref = own({"a.csv": frame.to_csv(index=False).encode()}, values="real", shape=[1], groups="who", test=0.3)
    data = made(ref, tmp_path)
    assert [len(np.unique(split.groups)) for split in data.splits.values()] == [6, 1, 3]
    assert set(data.certificate["shared_groups"].values()) == {0}


@pytest.mark.parametrize(
    ("name", "content", "options", "says"),
    [
        ("a.npy", saved(np.save, TABLE), {"shape": [4]}, "not rows of the shape [4]"),
        ("a.npy", saved(np.save, TABLE + 2), {"values": "unit"}, "between 0 and 1"),
        ("a.npy", saved(np.save, TABLE), {"values": "binary"}, "0 or 1"),
        ("a.npy", saved(np.save, TABLE * np.nan), {}, "finite"),
        ("a.npy", saved(np.save, np.array([{}] * 3), allow_pickle=True), {}, "without unpickling"),
        ("a.npz", saved(np.savez, x=np.array([{}] * 3)), {"array": "x"}, "without unpickling"),
        ("a.npz", saved(np.savez, x=TABLE), {}, "set option `array`"),
        ("a.npz", saved(np.savez, data=TABLE), {"array": "date"}, "did you mean 'data'"),
        ("a.npz", b"PK\3\4no", {"array": "x"}, "not an array"),
        ("a.npy", saved(np.save, TABLE[:3]), {}, "leave a split without any"),
        ("a.npy", saved(np.save, np.array(["a", "b"])), {}, "not an array of numbers"),
        ("a.csv", b"a,b,c\n1,2,x\n", {}, "column 'c' is not numeric"),
        ("a.parquet", b"PAR1", {}, "not a table"),
        ("a.mat", b"MATLAB", {}, "reads .npy"),
    ],
)
def test_a_bad_own_file_is_one_sentence_and_leaves_nothing(own, tmp_path, name, content, options, says):
    ref = own({name: content}, **({"values": "real", "shape": [3]} | options))
    with pytest.raises(UserError) as caught:
        made(ref, tmp_path)
    assert says in str(caught.value)
    assert list((tmp_path / "prepared").iterdir()) == []


def test_equal_inputs_give_equal_bytes_and_an_empty_folder_in_the_way_is_replaced(own, tmp_path):
    ref = own({"a.npy": saved(np.save, TABLE)}, values="real", shape=[3])
    first = contents(prepare(ref, tmp_path / "raw", tmp_path / "one"))
    (tmp_path / "two" / ref.key).mkdir(parents=True)
    assert contents(prepare(ref, tmp_path / "raw", tmp_path / "two")) == first
    assert contents(prepare(ref, tmp_path / "raw", tmp_path / "two")) == first
    assert [path.name for path in (tmp_path / "two").iterdir()] == [ref.key]
    assert str(tmp_path).encode() not in b"".join(first.values())


def test_raw_files_that_changed_since_they_were_fetched_are_refused(own, tmp_path):
    ref = own({"a.npy": saved(np.save, TABLE)}, values="real", shape=[3])
    (tmp_path / "raw/made/a.npy").write_bytes(saved(np.save, TABLE + 1))
    with pytest.raises(UserError, match="dgmbench fetch made"):
        made(ref, tmp_path)
    with pytest.raises(UserError, match="dgmbench fetch made"):
        prepare(ref, tmp_path / "elsewhere", tmp_path / "prepared")


def test_a_full_disk_leaves_nothing_and_says_what_is_needed(own, tmp_path, monkeypatch):
    def full(_file, _offset, _size):
        raise OSError(errno.ENOSPC, "No space left on device")

    ref = own({"a.npy": saved(np.save, TABLE)}, values="real", shape=[3])
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"no space left.*prepared: about 168 bytes"):
        made(ref, tmp_path)
    assert list((tmp_path / "prepared").iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "missing", "other shape", "certificate"])
def test_a_damaged_dataset_does_not_open(own, tmp_path, damage):
    ref = own({"a.npy": saved(np.save, TABLE)}, values="real", shape=[3])
    folder = prepare(ref, tmp_path / "raw", tmp_path / "prepared")
    path = folder / "train.npy"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "missing":
        path.unlink()
    elif damage == "other shape":
        np.save(path, np.zeros((13, 3), dtype=np.float32))
    else:
        (folder / certificate.FILE).write_text("{")
    with pytest.raises(UserError, match="prepare"):
        open_dataset(folder)


def amat(x: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, row)) + "\n" for row in x.tolist()).encode()


def test_binarized_text_is_read_exactly():
    x = np.random.Generator(np.random.PCG64(3)).integers(0, 2, (5, 784))
    np.testing.assert_array_equal(mnist_static.parse("a", amat(x)), x)


@pytest.mark.parametrize("change", [b"2", b" ", b"\n", b"a"])
@pytest.mark.parametrize("place", [0, 1, 1567, 1568])
def test_binarized_text_of_another_layout_is_refused(change, place):
    content = bytearray(amat(np.zeros((2, 784), dtype=int)))
    if content[place : place + 1] == change:
        change = b"x"
    content[place : place + 1] = change
    with pytest.raises(UserError, match="784 characters"):
        mnist_static.parse("a", bytes(content))
    with pytest.raises(UserError, match="whole number of lines"):
        mnist_static.parse("a", bytes(content[:-1]))


def test_binarized_files_are_the_same_data_gzipped_or_not(own, tmp_path):
    generator = np.random.Generator(np.random.PCG64(3))
    texts = {name: amat(generator.integers(0, 2, (4, 784))) for name in mnist_static._FILES.values()}
    plain = prepare(own(texts, "mnist_static"), tmp_path / "raw", tmp_path / "plain")
    packed = {name: gzip.compress(text) for name, text in texts.items()}
    gzipped = prepare(own(packed, "mnist_static"), tmp_path / "raw", tmp_path / "gz")
    for split in ("train", "validation", "test"):
        assert (plain / f"{split}.npy").read_bytes() == (gzipped / f"{split}.npy").read_bytes()


def photographs(n_train=6, n_test=3, side=(24, 16)) -> bytes:
    """A BSDS-like tgz of small noise images."""
    generator = np.random.Generator(np.random.PCG64(5))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for number in range(n_train + n_test):
            pixels = generator.integers(0, 256, (*side, 3), dtype=np.uint8)
            content = saved(lambda out, image: image.save(out, "JPEG"), Image.fromarray(pixels))
            info = tarfile.TarInfo(f"BSDS300/images/{'train' if number < n_train else 'test'}/{1000 + number}.jpg")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


COUNTS = {"train": 300, "validation": 40, "test": 50, "validation_images": 2}


def test_bsds_keeps_images_apart_and_repeats_to_the_byte(own, tmp_path):
    ref = own({"BSDS300-images.tgz": photographs()}, "bsds", members="*.jpg", **COUNTS)
    folder = prepare(ref, tmp_path / "raw", tmp_path / "one")
    assert contents(folder) == contents(prepare(ref, tmp_path / "raw", tmp_path / "two"))
    data = open_dataset(folder)
    assert data.dimension == 63
    assert [len(split) for split in data.splits.values()] == [300, 40, 50]
    groups = {split: set(parts.groups.tolist()) for split, parts in data.splits.items()}
    assert groups["test"] == {1006, 1007, 1008}
    assert len(groups["validation"]) == 2
    assert groups["train"] | groups["validation"] == set(range(1000, 1006))
    assert set(data.certificate["shared_groups"].values()) == {0}
    assert certificate.verify(folder) == []


def test_bsds_with_too_few_images_is_told(own, tmp_path):
    ref = own({"BSDS300-images.tgz": photographs(2, 1)}, "bsds", members="*.jpg", **COUNTS)
    with pytest.raises(UserError, match="2 training and 1 test images"):
        made(ref, tmp_path)


def test_a_member_that_is_no_image_is_told(own, tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("BSDS300/images/train/1.jpg"))
    ref = own({"BSDS300-images.tgz": stream.getvalue()}, "bsds", members="*.jpg")
    with pytest.raises(UserError, match=r"train/1\.jpg is not an image"):
        made(ref, tmp_path)


def test_dequantized_values_are_the_rounded_exact_equation():
    bits = draws.stream(1)
    values, noise = draws.below(bits, 256, 5 * 64).reshape(5, 64), draws.noise24(bits, 5 * 64).reshape(5, 64)
    values[0], noise[0] = 0, 0
    values[1, 0], noise[1, 0] = 255, 2**24 - 1
    x = patches.dequantized(values.astype(np.uint8), noise)
    for row in range(5):
        u = [(v + Fraction(e, 2**24)) / 256 for v, e in zip(values[row].tolist(), noise[row].tolist())]
        mean = sum(u) / 64
        expected = np.array([float(value - mean) for value in u[:-1]], dtype=np.float64).astype(np.float32)
        np.testing.assert_array_equal(x[row], expected)


@pytest.fixture
def patches_of(tmp_path):
    def write(name, images, n=400, patch=3, seed=0):
        (tmp_path / name).mkdir()
        writer = Writer(tmp_path / name, Description("real", (patch**2 - 1,)))
        patches.write_patches(writer, "train", images, range(len(images)), n, patch, seed)
        return np.load(tmp_path / name / "train.npy"), np.load(tmp_path / name / "train_groups.npy")

    return write


def test_each_patch_is_one_of_its_image_and_every_place_is_drawn(patches_of):
    generator = np.random.Generator(np.random.PCG64(11))
    images = [generator.integers(0, 256, size, dtype=np.uint8) for size in [(5, 7), (6, 4), (3, 3)]]
    # 3 images with 15, 8 and 1 places: the chance that 3,000 uniform draws miss one of the rarest places
    # (probability 1/45) is below 15 (44/45)^3000 < 1e-27.
    x, groups = patches_of("a", images, n=3000)
    for group, image in enumerate(images):
        places = np.lib.stride_tricks.sliding_window_view(image, (3, 3)).reshape(-1, 9) / 256
        centred = (places - places.mean(axis=1, keepdims=True))[:, :-1]
        distance = np.abs(x[groups == group][:, None] - centred).max(axis=2)
        # The noise less its mean moves a value by less than 1/256.
        assert (distance.min(axis=1) < 1 / 256).all()
        assert set(distance.argmin(axis=1)) == set(range(len(places)))


def test_the_size_of_a_chunk_changes_no_bit(patches_of, monkeypatch):
    images = [np.arange(64, dtype=np.uint8).reshape(8, 8), np.arange(100, dtype=np.uint8).reshape(5, 20)]
    whole = patches_of("a", images)
    monkeypatch.setattr(patches, "_CHUNK", 7)
    for one, other in zip(whole, patches_of("b", images)):
        np.testing.assert_array_equal(one, other)
    assert (whole[0] != patches_of("c", images, seed=1)[0]).any()


def test_an_image_smaller_than_a_patch_is_told(patches_of):
    with pytest.raises(UserError, match="no patch of 3 x 3"):
        patches_of("a", [np.zeros((2, 9), dtype=np.uint8)])


def test_raw_bits_are_those_that_numpy_promises():
    # PCG64 seeded by SeedSequence([0, 1]): if these move, every prepared dataset does.
    assert draws.below(draws.stream(0, 1), 1000, 5).tolist() == [889, 557, 800, 956, 58]


def test_draws_are_uniform_and_normal():
    n, bits = 200_000, draws.stream(42)
    counts = np.bincount(draws.below(bits, 7, n), minlength=7)
    # Chi-square with 6 degrees of freedom: above 38.3 with probability 1e-6.
    assert ((counts - n / 7) ** 2 / (n / 7)).sum() < 38.3
    assert sorted(draws.permutation(bits, 1000).tolist()) == list(range(1000))
    z = draws.normal(bits, n)
    # Means of z and z^2 lie within 5 standard errors, except with probability 1.2e-6.
    assert abs(z.mean()) < 5 / n**0.5
    assert abs((z**2).mean() - 1) < 5 * (2 / n) ** 0.5
    noise = draws.noise24(bits, n)
    assert noise.min() >= 0
    assert noise.max() < 2**24
    assert abs(noise.mean() / 2**24 - 0.5) < 5 * (1 / 12 / n) ** 0.5
