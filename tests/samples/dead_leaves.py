"""A small photograph and an archive of three, PNG and JPEG."""

import io
import tarfile

import numpy as np
from PIL import Image


def make(folder, monkeypatch):
    rng = np.random.default_rng(0)
    single, archive = folder / "one.png", folder / "more.tgz"
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(single)
    with tarfile.open(archive, "w:gz") as tar:
        for number in range(3):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (24, 36), dtype=np.uint8)).save(stream, "JPEG")
            info = tarfile.TarInfo(f"photographs/{number}.jpg")
            info.size = len(stream.getvalue())
            tar.addfile(info, io.BytesIO(stream.getvalue()))
    options = {"patch": 4, "texture_patches": 400, "scales": 3, "iterations": 3, "members": "*.jpg"}
    return {single.name: single, archive.name: archive}, options | {"train": 100, "validation": 50, "test": 50}
