"""A table of the user's own, as CSV, and an .npz beside it would be read the same way."""

import numpy as np


def make(folder, monkeypatch):
    rng = np.random.default_rng(0)
    path = folder / "table.npz"
    np.savez_compressed(path, x=rng.random((200, 6)).astype(np.float32), y=rng.integers(0, 3, 200))
    return {"table.npz": path}, {"values": "unit", "shape": [6], "array": "x", "labels": "y"}
