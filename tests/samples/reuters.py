"""A corpus of 60 documents over 40 terms in the files of RCV1-v2: topics, and vectors in five parts."""

import gzip

import numpy as np

from dgmbench.data.datasets import reuters

DOCUMENTS, TERMS = 60, 40


def make(folder, monkeypatch):
    parts = dict(zip(reuters._VECTORS, np.array_split(np.arange(DOCUMENTS), 5)))
    monkeypatch.setattr(reuters, "_VECTORS", {name: len(rows) for name, rows in parts.items()})
    monkeypatch.setattr(reuters, "_TERMS", TERMS)
    numbers, topics, weights = corpus()
    lines = [f"{topic} {number} 1\n" for number, of in zip(numbers, topics) for topic in of]
    files = {reuters._TOPICS: lines}
    for name, rows in parts.items():
        files[name] = [f"{numbers[row]}  {pairs(weights[row])}\n" for row in rows]
    for name, content in files.items():
        (folder / name).write_bytes(gzip.compress("".join(content).encode()))
    return {name: folder / name for name in files}, {"documents": 30, "terms": 10, "validation": 5}


def pairs(weights):
    return " ".join(f"{term + 1}:{weights[term]:.12f}" for term in np.flatnonzero(weights))


def corpus():
    """Document numbers (n,), their topics, and weights (n, terms) of rows of length 1."""
    rng = np.random.default_rng(0)
    numbers = 2286 + np.cumsum(rng.integers(1, 9, DOCUMENTS))
    topics = []
    for row in range(DOCUMENTS):
        roots = list(rng.permutation(["CCAT", "ECAT", "GCAT", "MCAT"])[: 2 if row % 6 == 0 else 1])
        topics.append([*roots, f"{roots[0][0]}11"])
    weights = rng.random((DOCUMENTS, TERMS)) * (rng.random((DOCUMENTS, TERMS)) < np.linspace(0.05, 0.5, TERMS))
    weights[:, 7] += 0.01
    weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
    return numbers.tolist(), topics, np.round(weights, 12)
