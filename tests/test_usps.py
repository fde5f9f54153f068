"""USPS from small made files: what is on a line comes out, and other tables are refused."""

import gzip

import numpy as np
import pytest
from samples import usps as sample

from dgmbench.data.archives import open_text
from dgmbench.data.datasets import usps
from dgmbench.data.loading import Writer
from dgmbench.errors import UserError


@pytest.fixture
def files(tmp_path, monkeypatch):
    return sample.make(tmp_path, monkeypatch)[0]


def prepared(files, folder, **options):
    folder.mkdir()
    chosen = usps.Options(**options)
    writer = Writer(folder, usps.describe(chosen))
    usps.prepare(files, chosen, writer)
    found = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    assert tuple(split for split in ("train", "validation", "test") if split in found) == usps.splits(chosen)
    return found


def table(path):
    return np.array([line.split() for line in open_text(path).splitlines()], dtype=np.float64)


def with_value(text, value):
    """The text with another first value on its first line."""
    label, _, rest = text.split(" ", 2)
    return f"{label} {value} {rest}"


def test_lines_become_images_between_0_and_1_in_their_order(files, tmp_path):
    found = prepared(files, tmp_path / "out")
    for split, name in (("train", "zip.train.gz"), ("test", "zip.test.gz")):
        rows = table(files[name])
        np.testing.assert_array_equal(found[split], ((rows[:, 1:] + 1) / 2).astype(np.float32))
        np.testing.assert_array_equal(found[f"{split}_labels"], rows[:, 0])


def test_together_puts_the_test_images_after_the_training_images(files, tmp_path):
    apart, found = prepared(files, tmp_path / "apart"), prepared(files, tmp_path / "out", together=True)
    assert set(found) == {"train", "train_labels"}
    for suffix in ("", "_labels"):
        np.testing.assert_array_equal(
            found[f"train{suffix}"], np.concatenate([apart[f"train{suffix}"], apart[f"test{suffix}"]])
        )


def test_validation_images_are_drawn_from_the_training_images_by_the_seed(files, tmp_path):
    whole = prepared(files, tmp_path / "whole")
    one, again, other = (
        prepared(files, tmp_path / name, validation=6, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert (len(one["train"]), len(one["validation"]), len(one["test"])) == (14, 6, 10)
    rows = {row.tobytes() for row in np.concatenate([one["train"], one["validation"]])}
    assert rows == {row.tobytes() for row in whole["train"]}
    np.testing.assert_array_equal(one["validation"], again["validation"])
    assert not np.array_equal(one["validation"], other["validation"])


def test_more_validation_images_than_there_are_is_told(files, tmp_path):
    with pytest.raises(UserError, match="lower `validation`"):
        prepared(files, tmp_path / "out", validation=20)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("\n", "\n\n", 1), "21 lines"),
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], "19 lines"),
        (lambda text: text.replace(" ", " 0.5 ", 1), "not 20 lines of 257 numbers"),
        (lambda text: text.replace(" ", " x", 1), "not 20 lines of 257 numbers"),
        (lambda text: with_value(text, "1.0010"), "between -1 and 1"),
        (lambda text: with_value(text, "nan"), "between -1 and 1"),
        (lambda text: f"{(int(text[0]) + 1) % 10}{text[1:]}", "numbers of images of each digit"),
        (lambda text: "0 " * 100_000 + text, "not 20 lines"),
    ],
)
def test_another_table_is_refused_with_the_name_of_its_file(files, tmp_path, change, told):
    content = change(open_text(files["zip.train.gz"]))
    files["zip.train.gz"].write_bytes(gzip.compress(content.encode()))
    with pytest.raises(UserError, match=rf"zip\.train\.gz .*({told})"):
        prepared(files, tmp_path / "out")
