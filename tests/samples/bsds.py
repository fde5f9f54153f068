"""An archive of a few small photographs in the layout of BSDS300."""

import io
import tarfile

import numpy as np
from PIL import Image


def make(folder, monkeypatch):
    rng = np.random.default_rng(0)
    path = folder / "BSDS300-images.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for number, half in enumerate(["train"] * 4 + ["test"] * 2):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (24, 36), dtype=np.uint8)).save(stream, "JPEG")
            info = tarfile.TarInfo(f"BSDS300/images/{half}/{1000 + number}.jpg")
            info.size = len(stream.getvalue())
            archive.addfile(info, io.BytesIO(stream.getvalue()))
    return {path.name: path}, {"train": 200, "validation": 50, "test": 100, "validation_images": 1}
