"""Split certificates: every number against a brute-force computation, and every alteration noticed."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest

from dgmbench.data import certificate
from dgmbench.data.catalogue import DatasetRef
from dgmbench.data.loading import Description, Writer
from dgmbench.errors import UserError

REF = DatasetRef("made", {"seed": 1}, "01234567")


def write(directory, splits, description):
    directory.mkdir(parents=True)
    writer = Writer(directory, description)
    for split, parts in splits.items():
        writer.write(split, **parts)
    made = certificate.build(directory, REF, description, about={"licence": "l", "notes": {}})
    (directory / certificate.FILE).write_text(json.dumps(made))
    return made


@pytest.fixture
def splits():
    generator = np.random.Generator(np.random.PCG64(7))
    pool = generator.normal(size=(40, 5)).astype(np.float32)

    def some(n):
        rows = generator.integers(0, 40, n)
        return {"x": pool[rows], "labels": rows % 3, "groups": rows // 10}

    return {"train": some(60), "validation": some(8), "test": some(12)}


@pytest.fixture
def made(tmp_path, splits):
    directory = tmp_path / "made-01234567"
    return directory, write(directory, splits, Description("real", (5,)))


def test_numbers_agree_with_brute_force(made, splits):
    _, told = made
    sets = {split: {row.tobytes() for row in parts["x"]} for split, parts in splits.items()}
    groups = {split: set(parts["groups"].tolist()) for split, parts in splits.items()}
    for split, parts in splits.items():
        facts, x = told["splits"][split], parts["x"]
        assert (facts["rows"], facts["dimension"], facts["dtype"]) == (*x.shape, "<f4")
        assert facts["distinct_rows"] == len(sets[split])
        exact = sum(map(Fraction, x.ravel().tolist())) / x.size
        assert math.isclose(facts["mean"], exact, rel_tol=1e-12)
        assert (facts["min"], facts["max"]) == (x.min(), x.max())
        assert facts["labels"] == {str(k): int((parts["labels"] == k).sum()) for k in np.unique(parts["labels"])}
        assert facts["groups"] == len(groups[split])
    for pair, shared in told["shared_rows"].items():
        a, b = pair.split("-")
        assert shared == len(sets[a] & sets[b])
        assert told["shared_groups"][pair] == len(groups[a] & groups[b])
    assert len(told["shared_rows"]) == 3


def test_chunks_change_nothing_but_memory(made, monkeypatch):
    directory, told = made
    monkeypatch.setattr(certificate, "_CHUNK_BYTES", 5 * 4 * 7)
    now = certificate.evidence(directory, Description("real", (5,)))
    for split, facts in now["splits"].items():
        assert math.isclose(facts.pop("mean"), told["splits"][split]["mean"], rel_tol=1e-12)
        assert facts.items() <= told["splits"][split].items()
    assert now["shared_rows"] == told["shared_rows"]


def test_equal_data_give_equal_bytes(tmp_path, splits):
    for name in "ab":
        write(tmp_path / name, splits, Description("real", (5,)))
    assert (tmp_path / "a" / certificate.FILE).read_bytes() == (tmp_path / "b" / certificate.FILE).read_bytes()


def test_what_is_untouched_verifies(made):
    assert certificate.verify(made[0]) == []


@pytest.mark.parametrize("name", ["train.npy", "validation_labels.npy", "test_groups.npy"])
def test_one_flipped_bit_is_noticed(made, name):
    path = made[0] / name
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert any(name.split("_")[0].removesuffix(".npy") in problem for problem in certificate.verify(made[0]))


def test_swapped_rows_and_relabelled_rows_are_noticed(made):
    directory, _ = made
    x = np.load(directory / "train.npy")
    assert (x[0] != x[1]).any()
    np.save(directory / "train.npy", x[[1, 0, *range(2, len(x))]])
    assert [problem.split(" is ")[0] for problem in certificate.verify(directory)] == ["train: sha256"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "not an array"])
def test_lost_and_cut_files_are_noticed(made, damage):
    directory, _ = made
    path = directory / "test.npy"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] if damage == "truncated" else b"no array")
    assert certificate.verify(directory) != []


@pytest.mark.parametrize(
    ("values", "x", "says"),
    [
        ("binary", [[0.0, 2.0]], "0 or 1"),
        ("binary", [[0.5, 1.0]], "0 or 1"),
        ("unit", [[0.5, 1.01]], "between 0 and 1"),
        ("unit", [[np.nan, 0.5]], "between 0 and 1"),
        ("real", [[np.nan, 0.0]], "finite"),
        ("real", [[np.inf, 0.0]], "finite"),
    ],
)
def test_values_of_another_kind_than_declared_are_refused(tmp_path, values, x, says):
    with pytest.raises(UserError, match=says):
        write(tmp_path / "made", {"train": {"x": np.array(x)}}, Description(values, (2,)))


def test_grey_values_pass_for_binary_only_where_they_are_binarized_at_use(tmp_path):
    grey = {"train": {"x": np.array([[0.5, 1.0]])}}
    made = write(tmp_path / "made", grey, Description("binary", (2,), binarize=("train",)))
    assert made["binarize"] == ["train"]
    assert certificate.verify(tmp_path / "made") == []


def test_another_format_is_refused(made):
    directory, told = made
    (directory / certificate.FILE).write_text(json.dumps({**told, "format": 99}))
    with pytest.raises(UserError, match="another format"):
        certificate.verify(directory)
    (directory / certificate.FILE).write_text("[]")
    with pytest.raises(UserError, match="damaged"):
        certificate.verify(directory)
