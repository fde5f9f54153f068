"""Three small photographs, PNG and JPEG."""

import numpy as np
from PIL import Image


def make(folder, monkeypatch):
    rng = np.random.default_rng(0)
    files = {}
    for name in ("one.png", "two.jpg", "three.png"):
        files[name] = folder / name
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(files[name])
    options = {"train": 100, "validation": 50, "test": 50}
    return files, options | {"validation_images": ["two.jpg"], "test_images": ["three.png"]}
