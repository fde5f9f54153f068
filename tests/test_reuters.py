"""Reuters from a made corpus: the protocol, worked out again in the plain way."""

import gzip

import numpy as np
import pytest
from samples import reuters as sample

from dgmbench.data.archives import open_text
from dgmbench.data.datasets import reuters
from dgmbench.data.loading import Writer
from dgmbench.errors import UserError

ROOTS = ["CCAT", "ECAT", "GCAT", "MCAT"]
TOPICS, TRAIN = "rcv1v2.topics.qrels.gz", "lyrl2004_vectors_train.dat.gz"


@pytest.fixture
def files(tmp_path, monkeypatch):
    return sample.make(tmp_path, monkeypatch)[0]


def prepared(files, folder, **options):
    folder.mkdir()
    chosen = reuters.Options(**{"documents": 30, "terms": 10} | options)
    writer = Writer(folder, reuters.describe(chosen))
    reuters.prepare(files, chosen, writer)
    found = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    assert tuple(split for split in ("train", "validation", "test") if split in found) == reuters.splits(chosen)
    return found, writer.notes


def expected(terms):
    """Rows and labels of every document with one root topic, in the order of the documents."""
    _, topics, weights = sample.corpus()
    eligible = [row for row, of in enumerate(topics) if len(set(of) & set(ROOTS)) == 1]
    frequency = (weights[eligible] > 0).sum(axis=0)
    kept = sorted(sorted(range(sample.TERMS), key=lambda term: (-frequency[term], term))[:terms])
    rows = weights[np.ix_(eligible, kept)]
    labels = [ROOTS.index(topics[row][0]) for row in eligible]
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.array(labels)


def test_all_eligible_documents_are_what_the_protocol_says(files, tmp_path):
    rows, labels = expected(10)
    found, notes = prepared(files, tmp_path / "out", documents=len(rows))
    np.testing.assert_allclose(found["train"], rows, atol=1e-6)
    np.testing.assert_array_equal(found["train_labels"], labels)
    assert notes["eligible_documents"] == len(rows) == 50
    assert notes["rows_without_a_kept_term"] == int((rows.max(axis=1) == 0).sum())


def test_a_draw_is_a_part_of_them_by_the_seed(files, tmp_path):
    whole, _ = prepared(files, tmp_path / "whole", documents=50)
    one, _ = prepared(files, tmp_path / "one", documents=20)
    again, _ = prepared(files, tmp_path / "again", documents=20)
    other, _ = prepared(files, tmp_path / "other", documents=20, seed=1)
    place = {row.tobytes(): number for number, row in enumerate(whole["train"])}
    places = [place[row.tobytes()] for row in one["train"]]
    assert places == sorted(set(places))
    np.testing.assert_array_equal(one["train_labels"], whole["train_labels"][places])
    np.testing.assert_array_equal(one["train"], again["train"])
    assert not np.array_equal(one["train"], other["train"])


def test_splits_hold_every_drawn_document_once(files, tmp_path):
    whole, _ = prepared(files, tmp_path / "whole")
    found, notes = prepared(files, tmp_path / "out", validation=5, test=6)
    assert [len(found[split]) for split in ("train", "validation", "test")] == [19, 5, 6]
    rows = np.concatenate([found["train"], found["validation"], found["test"]])
    assert sorted(row.tobytes() for row in rows) == sorted(row.tobytes() for row in whole["train"])
    assert "duplicates" in notes


def test_the_size_of_the_pieces_does_not_matter(files, tmp_path, monkeypatch):
    whole, _ = prepared(files, tmp_path / "whole")
    monkeypatch.setattr(reuters, "_BLOCK", 500)
    monkeypatch.setattr(reuters, "_ROWS", 7)
    monkeypatch.setattr(
        reuters, "chunks", lambda path: (open_text(path).encode()[at : at + 100] for at in range(0, 1 << 16, 100))
    )
    pieces, _ = prepared(files, tmp_path / "pieces")
    assert all((pieces[name] == whole[name]).all() for name in whole)
    monkeypatch.setattr(reuters, "_BLOCK", 20)
    with pytest.raises(UserError, match="has a line of more than 20 bytes"):
        prepared(files, tmp_path / "long")


def test_more_documents_than_there_are_is_told(files, tmp_path):
    with pytest.raises(UserError, match="50 documents have one root topic: lower `documents`"):
        prepared(files, tmp_path / "out", documents=51)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (TOPICS, lambda text: text.replace(" 1\n", " 2\n", 1), "a mark that is not 1"),
        (TOPICS, lambda text: text.replace(" 1\n", " one\n", 1), "is not lines 'topic document 1'"),
        (TOPICS, lambda text: text + "CCAT 999999 1\n", "61 documents, not 60"),
        (TRAIN, lambda text: text[text.index("\n") + 1 :], "11 documents, not 12"),
        (TRAIN, lambda text: text + text.splitlines(keepends=True)[1], "there twice"),
        (TRAIN, lambda text: text.replace(":0.", ":7.", 1), "not between 0 and 1"),
        (TRAIN, lambda text: text.replace(":0.", ":-0.", 1), "not between 0 and 1"),
        (TRAIN, lambda text: text.replace(":0.", ":nan", 1), "is not lines"),
        (TRAIN, lambda text: text.replace("  ", "  0:0.5 ", 1), "is not lines"),
        (TRAIN, lambda text: text.replace("\n", " 41:0.5\n", 1), "is not lines"),
        (TRAIN, lambda text: text.replace("\n", f" {1 << 80}:0.5\n", 1), "is not lines"),
        (TRAIN, lambda text: "7" + "\n7".join(text.splitlines()), "are in none of"),
    ],
)
def test_other_files_are_refused_with_their_name(files, tmp_path, name, change, told):
    files[name].write_bytes(gzip.compress(change(open_text(files[name])).encode()))
    with pytest.raises(UserError, match=told) as caught:
        prepared(files, tmp_path / "out")
    assert name in str(caught.value)
