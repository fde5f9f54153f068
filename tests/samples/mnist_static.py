"""Three text files of binary images, with few lines: the loader takes any number, the catalogue pins the real ones."""

import gzip

import numpy as np


def make(folder, monkeypatch):
    rng = np.random.default_rng(0)
    files = {}
    for name, rows in (("train", 30), ("valid", 10), ("test", 10)):
        path = folder / f"binarized_mnist_{name}.amat"
        lines = [" ".join(map(str, row)) for row in rng.integers(0, 2, (rows, 784))]
        path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), 1))
        files[path.name] = path
    return files, {}
