"""The digits' table with as many rows as it must have."""

import gzip

import numpy as np


def make(folder, monkeypatch):
    rng = np.random.default_rng(0)
    table = np.column_stack([rng.integers(0, 17, (1797, 64)), rng.integers(0, 10, 1797)])
    path = folder / "digits.csv.gz"
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in table).encode(), 1))
    return {path.name: path}, {}
