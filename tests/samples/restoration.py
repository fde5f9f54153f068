"""A zip of three photographs of two sizes, and their numbers."""

import io
import zipfile

import numpy as np
from PIL import Image


def make(folder, monkeypatch):
    rng, path, numbers = np.random.default_rng(0), folder / "Set3.zip", folder / "names.tsv"
    with zipfile.ZipFile(path, "w") as archive:
        for name, size in (("a.png", (20, 30)), ("b.png", (30, 20)), ("c.bmp", (20, 30))):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(stream, name[2:].upper())
            archive.writestr(f"Set3/{name}", stream.getvalue())
    numbers.write_text("a.png\t101\nb.png\t102\nc.bmp\t103\n")
    return {path.name: path, numbers.name: numbers}, {"images": 3, "height": 30, "width": 30}
