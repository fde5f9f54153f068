"""Two archives of small alphabets in the layout of OMNIGLOT."""

import io
import zipfile

import numpy as np
from PIL import Image

from dgmbench.data.datasets import omniglot_png


def make(folder, monkeypatch):
    characters = {"images_background.zip": 2, "images_evaluation.zip": 1}
    monkeypatch.setattr(omniglot_png, "_CHARACTERS", characters)
    rng, files = np.random.default_rng(0), {}
    for archive, count in characters.items():
        files[archive] = folder / archive
        alphabet = {"images_background.zip": "Greek", "images_evaluation.zip": "Keble"}[archive]
        with zipfile.ZipFile(folder / archive, "w") as out:
            for character in range(1, count + 1):
                for drawer in range(1, 21):
                    stream = io.BytesIO()
                    Image.fromarray(rng.random((105, 105)) < 0.95).save(stream, "PNG")
                    stem = archive.removesuffix(".zip")
                    out.writestr(
                        f"{stem}/{alphabet}/character{character:02}/{character:04}_{drawer:02}.png", stream.getvalue()
                    )
    return files, {"validation": 5, "test": 10}
