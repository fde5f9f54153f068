"""A zip of PNG and JPEG photographs in two folders, as one's own images arrive."""

import io
import zipfile

import numpy as np
from PIL import Image


def make(folder, monkeypatch):
    rng, path = np.random.default_rng(0), folder / "own.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20):
            stream, kind = io.BytesIO(), ("png", "jpeg")[number % 2]
            Image.fromarray(rng.integers(0, 256, (18, 24 + number, 3), dtype=np.uint8)).save(stream, kind.upper())
            archive.writestr(f"{'ab'[number % 2]}/{number}.{'jpg' if kind == 'jpeg' else kind}", stream.getvalue())
    return {path.name: path}, {"height": 8, "width": 10, "colour": True, "labels": True, "fit": "area"}
