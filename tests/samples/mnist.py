"""The four idx files, with few images."""

import gzip
import struct

import numpy as np

from dgmbench.data.datasets import mnist


def make(folder, monkeypatch):
    rows = {"train": 40, "t10k": 20}
    monkeypatch.setattr(mnist, "_ROWS", rows)
    rng, files = np.random.default_rng(0), {}
    for half, n in rows.items():
        images = struct.pack(">IIII", 2051, n, 28, 28) + rng.integers(0, 256, n * 784, dtype=np.uint8).tobytes()
        labels = struct.pack(">II", 2049, n) + rng.integers(0, 10, n, dtype=np.uint8).tobytes()
        for name, content in ((f"{half}-images-idx3-ubyte.gz", images), (f"{half}-labels-idx1-ubyte.gz", labels)):
            files[name] = folder / name
            files[name].write_bytes(gzip.compress(content, 1))
    return files, {"validation": 10}
