"""Grey images v in [0, 1] as binary ones: every pixel is drawn as Bernoulli(v), once or at every use.

    none        grey values as they are
    training    training images are drawn anew at every use by the run's generator; validation and test images are
                drawn once, from the dataset's seed, so that all models are measured on the same bits
    all         the images of every split are drawn anew at every use

Reference: R. Salakhutdinov and I. Murray, "On the Quantitative Analysis of Deep Belief Networks", ICML 2008.
"""

from typing import Literal

import numpy as np

from dgmbench.data.draws import stream, uniform
from dgmbench.data.loading import SPLITS, Description, Writer

Binarize = Literal["none", "training", "all"]
MEANING = "none: grey; training: training images drawn anew at every use, the others once; all: every image anew."
_KEY = 20  # apart from the streams that split rows
_ROWS = 4096


def description(binarize: Binarize, shape: tuple[int, ...], splits: tuple[str, ...] = SPLITS) -> Description:
    if binarize == "none":
        return Description("unit", shape)
    anew = splits if binarize == "all" else tuple(split for split in splits if split == "train")
    return Description("binary", shape, binarize=anew)


def write(
    writer: Writer, split: str, grey: np.ndarray, binarize: Binarize, seed: int, labels: np.ndarray | None = None
) -> None:
    """Write a split of grey images (n, d) in [0, 1]: as they are, or drawn once where they are to be binary."""
    if binarize == "none" or split in writer.description.binarize:
        writer.write(split, grey, labels=labels)
        return
    bits = stream(seed, _KEY, 1 + SPLITS.index(split))
    x = writer.create(split, len(grey), np.uint8)
    for start in range(0, len(grey), _ROWS):
        rows = grey[start : start + _ROWS]
        x[start : start + len(rows)] = uniform(bits, rows.size).reshape(rows.shape) < rows
    x.flush()
    writer.attach(split, labels=labels)


def note(writer: Writer, binarize: Binarize, seed: int) -> None:
    """Say in the certificate how the images are binarized."""
    if binarize == "none":
        return
    anew = list(writer.description.binarize)
    once = "" if binarize == "all" else f"; the other splits were drawn once, with seed {seed}"
    writer.note(binarization=f"Bernoulli of the grey values, drawn anew at every use: {', '.join(anew)}{once}")
