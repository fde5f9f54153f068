"""Preparing: equal inputs give equal bytes, nothing half-made stays, and the arrays are what the equations say."""

import errno
import gzip
import os

import numpy as np
import pandas as pd
import preparing
import pytest

from dgmbench.data import certificate
from dgmbench.data.datasets import array, mnist_static
from dgmbench.data.prepare import open_dataset, prepare
from dgmbench.errors import UserError

contents, made, own, saved = preparing.contents, preparing.made, preparing.own, preparing.saved


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


HOLES = np.where(np.arange(60).reshape(20, 3) % 25 == 4, np.inf, TABLE)  # in rows 2, 10 and 19, counted from 1
LINES = [",".join(map(str, row)) for row in HOLES]


@pytest.mark.parametrize(
    ("name", "content", "options", "says"),
    [
        ("a.npy", saved(np.save, HOLES), {}, "3 of 20 rows have values .* rows 2, 10, 19 of the file, counted from 1;"),
        ("a.npz", saved(np.savez, x=HOLES), {"array": "x"}, "rows 2, 10, 19 of the file"),
        (
            "a.parquet",
            saved(lambda s, f: f.to_parquet(s), pd.DataFrame(HOLES, columns=list("abc"))),
            {},
            "rows 2, 10, 19",
        ),
        ("a.csv", "\n".join(LINES).encode(), {}, "lines 2, 10, 19 of the file"),
        ("a.csv", "\n".join(["a,b,c", "", *LINES]).encode(), {}, "lines 4, 12, 21 of the file"),
        ("a.csv.gz", gzip.compress("\n".join(["a,b,c", *LINES]).encode()), {}, "lines 3, 11, 20 of the file"),
        # A hole in the first line makes it no line of column names: its row counts, and is refused.
        ("a.csv", b"nan,1,2\n" + b"1,2,3\n" * 19, {}, "1 of 20 rows .* line 1 of the file"),
        ("a.csv", b"1,,2\n" + b"1,2,3\n" * 19, {}, "1 of 20 rows .* line 1 of the file"),
        *(
            ("a.csv", first + b"\n" + b"1,2,3\n" * 19, {}, "1 of 20 rows .* line 1 of the file")
            for first in (b"NA,1,2", b"na,1,2", b"null,1,2", b"#N/A,1,2", b"inf,1,2", b"nan,NA,", b"\xef\xbb\xbfNA,1,2")
        ),
        ("a.npy", saved(np.save, TABLE * np.nan), {}, "20 of 20 rows .* rows 1, 2, 3, 4, 5, ... of the file"),
        (
            "a.csv",
            b"a,y\n" + b"1,2\n" * 9 + b"1,\n",
            {"labels": "y", "shape": [1]},
            "a.csv, 'y': 1 of 10 rows .* line 11 of",
        ),
    ],
)
def test_rows_that_miss_values_are_named(own, tmp_path, name, content, options, says):
    ref = own({name: content}, **({"values": "real", "shape": [3]} | options))
    with pytest.raises(UserError, match=says):
        made(ref, tmp_path)
    assert list((tmp_path / "prepared").iterdir()) == []


@pytest.mark.parametrize(
    ("first", "options", "rows"),
    [
        (b"", {}, 20),
        (b"\xef\xbb\xbf", {}, 20),
        (b"a,b,c\n", {}, 20),
        (b"\xef\xbb\xbfa,b,c\n", {"labels": "a", "shape": [2]}, 20),
        (b"NA,b,c\n", {}, 20),
        (b"y,0,1\n", {"labels": "y", "shape": [2]}, 20),
        (b"4,5,6\r\n", {}, 21),
    ],
)
def test_a_first_line_is_names_where_it_has_words_and_no_number(first, options, rows):
    options = array.Options(**({"values": "real", "shape": [3]} | options))
    x, _, _ = array.read("a.csv", first + b"1,2,3\n" * 20, options)
    assert x.shape == (rows, *options.shape)
    with pytest.raises(UserError, match="column '0' is not numeric"):
        array.read("a.csv", b"a,1,2\n" + b"1,2,3\n" * 20, array.Options(values="real", shape=[3]))


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
