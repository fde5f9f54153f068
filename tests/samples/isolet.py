"""Two small tables in the layout of ISOLET, with 7 features; one gzipped, one packed by `compress`."""

import gzip

import ncompress
import numpy as np

from dgmbench.data.datasets import isolet

COUNTS = {"isolet1+2+3+4.data": (2,) * 26, "isolet5.data": (1,) * 26}
FEATURES = 7


def make(folder, monkeypatch):
    monkeypatch.setattr(isolet, "_COUNTS", COUNTS)
    monkeypatch.setattr(isolet, "_FEATURES", FEATURES)
    files = {}
    for (name, text), pack in zip(texts().items(), (gzip.compress, ncompress.compress)):
        files[name] = folder / name
        files[name].write_bytes(pack(text))
    return files, {"validation": 4}


def texts():
    """The text of each file, its rows in no order."""
    rng = np.random.default_rng(0)
    found = {}
    for name, counts in COUNTS.items():
        letters = rng.permutation(np.repeat(np.arange(1, 27), counts))
        values = rng.integers(-10_000, 10_001, (len(letters), FEATURES)) / 10_000
        lines = (", ".join(f"{value:.4f}" for value in row) for row in values)
        found[name] = "".join(f"{line}, {letter}.\n" for line, letter in zip(lines, letters)).encode()
    return found
