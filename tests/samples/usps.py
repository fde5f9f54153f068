"""Two small tables in the layout of USPS: a digit and 256 values on each line."""

import gzip

import numpy as np

from dgmbench.data.datasets import usps

COUNTS = {"zip.train.gz": (2,) * 10, "zip.test.gz": (1,) * 10}


def make(folder, monkeypatch):
    monkeypatch.setattr(usps, "_COUNTS", COUNTS)
    rng, files = np.random.default_rng(0), {}
    for name, counts in COUNTS.items():
        digits = rng.permutation(np.repeat(np.arange(10), counts))
        rows = (
            " ".join(f"{value:.4f}" for value in (digit, *rng.integers(-1000, 1001, 256) / 1000)) for digit in digits
        )
        files[name] = folder / name
        files[name].write_bytes(gzip.compress("".join(f"{row} \n" for row in rows).encode()))
    return files, {"validation": 4}
