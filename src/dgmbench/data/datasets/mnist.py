"""MNIST: 70,000 handwritten digits, 28 x 28, grey, with labels, from its four idx files.

    idx3-ubyte    magic 2051, images, rows, columns (32 bits, big-endian), then one byte for each pixel
    idx1-ubyte    magic 2049, labels, then one byte for each

Pixels are v / 255, grey or binarized (data/binarization.py). The last images of the training file validate.
Reference: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-Based Learning Applied to Document Recognition",
Proceedings of the IEEE 86 (1998).
"""

import struct
from pathlib import Path

import numpy as np
from pydantic import Field

from dgmbench.data import binarization
from dgmbench.data.archives import open_bytes
from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.data.splitting import nonempty
from dgmbench.errors import UserError

_SIDE, _CLASSES = 28, 10
_ROWS = {"train": 60_000, "t10k": 10_000}
_IMAGES, _LABELS = 2051, 2049


class Options(LoaderOptions):
    validation: int = Field(0, ge=0, le=59_999, description="Last images of the training file that validate.")
    binarize: binarization.Binarize = Field("none", description=binarization.MEANING)
    seed: int = Field(0, ge=0, description="Seed of the images that are drawn once.")


def describe(options: Options) -> Description:
    return binarization.description(options.binarize, (_SIDE, _SIDE), splits(options))


def splits(options: Options) -> tuple[str, ...]:
    return nonempty(train=1, validation=options.validation, test=1)


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    parts = {}
    with writer.progress.task("read", total=len(_ROWS), unit="file") as task:
        for half, rows in _ROWS.items():
            images, labels = f"{half}-images-idx3-ubyte.gz", f"{half}-labels-idx1-ubyte.gz"
            parts[half] = (read_images(images, files[images], rows), read_labels(labels, files[labels], rows))
            task.advance()
    (x, labels), test = parts["train"], parts["t10k"]
    cut = len(x) - options.validation
    if cut < 1:
        raise UserError(f"{len(x):,} training images leave none beside {options.validation:,}: lower `validation`.")
    pieces = {"train": (x[:cut], labels[:cut]), "validation": (x[cut:], labels[cut:]), "test": test}
    for split in splits(options):
        grey, label = pieces[split]
        binarization.write(writer, split, grey / np.float32(255), options.binarize, options.seed, labels=label)
    binarization.note(writer, options.binarize, options.seed)
    writer.note(order="that of the files; the last of the training file validate", labels="the digit, 0 ... 9")


def read_images(name: str, path: Path, rows: int) -> np.ndarray:
    """(rows, 784) grey values 0 ... 255, uint8."""
    content = open_bytes(path)
    expected = struct.pack(">IIII", _IMAGES, rows, _SIDE, _SIDE)
    if content[:16] != expected or len(content) != 16 + rows * _SIDE * _SIDE:
        raise UserError(f"{name} is not {rows:,} images of {_SIDE} x {_SIDE} in idx format: fetch it again.")
    return np.frombuffer(content, dtype=np.uint8, offset=16).reshape(rows, -1)


def read_labels(name: str, path: Path, rows: int) -> np.ndarray:
    """(rows,) digits 0 ... 9."""
    content = open_bytes(path)
    if content[:8] != struct.pack(">II", _LABELS, rows) or len(content) != 8 + rows:
        raise UserError(f"{name} is not {rows:,} labels in idx format: fetch it again.")
    labels = np.frombuffer(content, dtype=np.uint8, offset=8).astype(np.int64)
    if labels.max() >= _CLASSES:
        raise UserError(f"{name} holds a label {labels.max()}, not digits: fetch it again.")
    return labels
