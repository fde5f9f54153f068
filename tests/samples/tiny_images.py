"""The archive of four arrays, with few images."""

import numpy as np

from dgmbench.data.datasets import tiny_images


def make(folder, monkeypatch):
    rows = {"train": 60, "test": 20}
    monkeypatch.setattr(tiny_images, "_ROWS", rows)
    rng, path = np.random.default_rng(0), folder / "cifar10_gray8x8.npz"
    x = {f"x_{split}": rng.integers(0, 256, (n, 8, 8), dtype=np.uint8) for split, n in rows.items()}
    y = {f"y_{split}": rng.integers(0, 10, n, dtype=np.uint8) for split, n in rows.items()}
    np.savez_compressed(path, **x, **y)
    return {path.name: path}, {"validation": 10}
