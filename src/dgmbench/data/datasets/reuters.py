"""Reuters news stories of one topic each, as tf-idf weights of the most frequent terms.

    vectors     lines "document term:weight ...", log tf-idf over the whole vocabulary, unit length
    topics      lines "topic document 1", with the topics above a document's own

Documents with exactly one of the four root topics are eligible; `documents` of them are drawn. Of all terms, those in
most eligible documents are kept (ties: the lower number), and each row is brought back to unit length.

The published files are read once and in pieces: of the 804,414 documents only the drawn ones are ever held.

References: D. D. Lewis, Y. Yang, T. G. Rose and F. Li, "RCV1: A New Benchmark Collection for Text Categorization
Research", JMLR 5 (2004); the protocol of J. Xie, R. Girshick and A. Farhadi, "Unsupervised Deep Embedding for
Clustering Analysis", ICML 2016.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from pydantic import Field
from sklearn.datasets import load_svmlight_file

from dgmbench.data.archives import Limits, chunks, open_bytes
from dgmbench.data.draws import permutation, stream
from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.data.splitting import nonempty, split_rows
from dgmbench.errors import UserError

_TOPICS = "rcv1v2.topics.qrels.gz"
# Documents of each file.
_VECTORS = {
    "lyrl2004_vectors_train.dat.gz": 23_149,
    "lyrl2004_vectors_test_pt0.dat.gz": 199_328,
    "lyrl2004_vectors_test_pt1.dat.gz": 199_339,
    "lyrl2004_vectors_test_pt2.dat.gz": 199_576,
    "lyrl2004_vectors_test_pt3.dat.gz": 183_022,
}
_TERMS = 47_236
_ROOTS = ("CCAT", "ECAT", "GCAT", "MCAT")
_TOPICS_LIMITS = Limits(total=64 << 20)
_BLOCK, _ROWS = 8 << 20, 1024  # bytes read and rows written at a time
_DRAW_KEY = 30  # apart from the stream that splits the documents
_GRID = 2.0**24  # weights are rounded to multiples of 1 / _GRID, so that sums of their squares are exact


class Options(LoaderOptions):
    documents: int = Field(10_000, ge=4, le=100_000, description="Documents drawn from those with one root topic.")
    terms: int = Field(2000, ge=1, le=10_000, description="Terms kept: those in most of the eligible documents.")
    validation: int = Field(0, ge=0, le=100_000, description="Drawn documents set aside for validation.")
    test: int = Field(0, ge=0, le=100_000, description="Drawn documents set aside for testing.")
    seed: int = Field(0, ge=0, description="Seed of the draw and of the split.")


def describe(options: Options) -> Description:
    return Description("unit", (options.terms,))


def splits(options: Options) -> tuple[str, ...]:
    return nonempty(train=1, validation=options.validation, test=options.test)


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    parts = split_rows(options.documents, options.validation, options.test, options.seed)
    eligible, roots = _eligible(files[_TOPICS])
    if options.documents > len(eligible):
        raise UserError(f"{len(eligible):,} documents have one root topic: lower `documents` to that or less.")
    order = permutation(stream(options.seed, _DRAW_KEY), len(eligible))
    drawn = np.sort(order[: options.documents])
    weights, frequency = _vectors(files, eligible, drawn, writer)
    weights = weights[:, _most_frequent(frequency, options.terms)]
    empty = 0
    for split, rows in parts.items():
        rows = np.sort(rows)
        x = writer.create(split, len(rows))
        for start in range(0, len(rows), _ROWS):
            dense = _unit_length(weights[rows[start : start + _ROWS]].toarray())
            x[start : start + len(dense)] = dense
            empty += int((dense.max(axis=1) == 0).sum())
        x.flush()
        writer.attach(split, labels=roots[drawn[rows]])
    writer.note(
        order="by document number, which is by date",
        labels="the root topic: " + ", ".join(f"{number} is {root}" for number, root in enumerate(_ROOTS)),
        eligible_documents=len(eligible),
        rows_without_a_kept_term=empty,
        protocol="published results count the raw tokens and draw with another seed; here the weights are those of the "
        "published vectors (stemmed, log tf-idf over the whole vocabulary), cut to the kept terms, and the draw is "
        "this loader's own, so that the documents are others",
    )
    if len(parts) > 1:
        writer.note(duplicates="a story that was sent twice has equal rows, so that splits can share a few")


def _eligible(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the documents with exactly one root topic, ascending, and that topic 0 ... 3."""
    content = open_bytes(path, _TOPICS_LIMITS)
    columns = {"topic": "category", "document": "int64", "one": "int8"}
    try:
        table = pd.read_csv(
            io.BytesIO(content), sep=" ", header=None, names=list(columns), dtype=columns, index_col=False, quoting=3
        )
    except (ValueError, OverflowError) as error:
        raise UserError(f"{_TOPICS} is not lines 'topic document 1' ({_line(error)}): fetch it again.") from error
    known = sum(_VECTORS.values())
    if (found := table["document"].nunique()) != known or not (table["one"] == 1).all():
        raise UserError(f"{_TOPICS} has {found:,} documents, not {known:,}, or a mark that is not 1: fetch it again.")
    pairs = table[table["topic"].isin(_ROOTS)].drop_duplicates()
    single = pairs.drop_duplicates("document", keep=False).sort_values("document")
    root = {name: number for number, name in enumerate(_ROOTS)}
    return single["document"].to_numpy(), np.array([root[name] for name in single["topic"]], dtype=np.int64)


def _vectors(
    files: dict[str, Path], eligible: np.ndarray, drawn: np.ndarray, writer: Writer
) -> tuple[sp.csr_array, np.ndarray]:
    """Weights of the drawn documents (m, terms), in their order, and in how many eligible ones each term is."""
    seen = np.zeros(len(eligible), dtype=bool)
    place = np.full(len(eligible), -1)
    place[drawn] = np.arange(len(drawn))
    frequency, kept, places = np.zeros(_TERMS, dtype=np.int64), [], []
    with writer.progress.task("read", total=sum(_VECTORS.values()), unit="document") as task:
        for name, count in _VECTORS.items():
            left = count
            for block in _blocks(name, files[name]):
                weights, documents = _parse(name, block)
                at = np.minimum(np.searchsorted(eligible, documents), len(eligible) - 1)
                rows = np.flatnonzero(eligible[at] == documents)
                at = at[rows]
                if len(np.unique(at)) < len(at) or seen[at].any():
                    raise UserError(f"{name} has a document that is there twice: fetch it again.")
                seen[at] = True
                frequency += np.bincount(weights[rows].indices, minlength=_TERMS)
                wanted = place[at] >= 0
                kept.append(weights[rows[wanted]])
                places.append(place[at[wanted]])
                left -= len(documents)
                task.advance(len(documents))
            if left:
                raise UserError(f"{name} holds {count - left:,} documents, not {count:,}: fetch it again.")
    if not seen.all():
        raise UserError(
            f"{(~seen).sum():,} documents of {_TOPICS} are in none of {', '.join(_VECTORS)}: fetch them again."
        )
    return sp.vstack(kept, format="csr")[np.argsort(np.concatenate(places))], frequency


def _blocks(name: str, path: Path) -> Iterator[bytes]:
    """Whole lines of a file, some megabytes at a time."""
    waiting = b""
    for piece in chunks(path):
        waiting += piece
        if len(waiting) < _BLOCK:
            continue
        end = waiting.rfind(b"\n") + 1
        if end == 0:
            raise UserError(f"{name} has a line of more than {_BLOCK:,} bytes: fetch it again.")
        yield waiting[:end]
        waiting = waiting[end:]
    if waiting:
        yield waiting


def _parse(name: str, block: bytes) -> tuple[sp.csr_array, np.ndarray]:
    """Weights (n, terms) in [0, 1] and document numbers (n,) of some lines."""
    try:
        found, documents = load_svmlight_file(io.BytesIO(block), n_features=_TERMS, zero_based=False)
    except Exception as error:  # the parser raises whatever its conversions raise
        raise UserError(f"{name} is not lines 'document term:weight ...' ({_line(error)}): fetch it again.") from error
    if not ((found.data >= 0) & (found.data <= 1)).all() or not (documents == np.floor(documents)).all():
        raise UserError(
            f"{name} has a weight that is not between 0 and 1, or a document without number: fetch it again."
        )
    return sp.csr_array(found), documents


def _most_frequent(frequency: np.ndarray, terms: int) -> np.ndarray:
    """The terms in most documents, ties by number, in ascending order."""
    return np.sort(np.argsort(-frequency, kind="stable")[:terms])


def _unit_length(weights: np.ndarray) -> np.ndarray:
    """Rows (n, terms) of length 1, float32; a row of nothing stays zero."""
    whole = np.rint(weights * _GRID)
    squares = (whole.astype(np.int64) ** 2).sum(axis=1, keepdims=True)
    return (whole / np.sqrt(np.maximum(squares, 1))).astype(np.float32)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
