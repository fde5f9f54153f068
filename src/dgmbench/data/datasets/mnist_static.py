"""Statically binarized MNIST: every pixel drawn once as Bernoulli of its grey value, and the draw published.

Text files, one image on each line: 784 characters 0 or 1, separated by single blanks. 50,000 training, 10,000
validation and 10,000 test images without labels, not in the order of MNIST.

References: R. Salakhutdinov and I. Murray, "On the Quantitative Analysis of Deep Belief Networks", ICML 2008 (the
protocol); H. Larochelle and I. Murray, "The Neural Autoregressive Distribution Estimator", AISTATS 2011 (these files).
"""

from pathlib import Path

import numpy as np

from dgmbench.data.archives import open_bytes
from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.errors import UserError

_PIXELS = 784
_FILES = {
    "train": "binarized_mnist_train.amat",
    "validation": "binarized_mnist_valid.amat",
    "test": "binarized_mnist_test.amat",
}


class Options(LoaderOptions):
    pass


def describe(options: Options) -> Description:
    return Description("binary", (28, 28))


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    with writer.progress.task("read", total=len(_FILES), unit="file") as task:
        for split, name in _FILES.items():
            writer.write(split, parse(name, open_bytes(files[name])))
            task.advance()
    writer.note(
        binarization="Larochelle's published draw, the same pixels always",
        order="that of the files, which is not that of MNIST; there are no labels",
    )


def parse(name: str, content: bytes) -> np.ndarray:
    """Lines of "0 1 ... 0" -> (n, 784) of {0, 1}, uint8; any other layout is refused."""
    width = 2 * _PIXELS
    text = np.frombuffer(content, dtype=np.uint8)
    if len(text) == 0 or len(text) % width:
        raise UserError(f"{name} has {len(text):,} bytes, not a whole number of lines of {width}: fetch it again.")
    lines = text.reshape(-1, width)
    digits, blanks, ends = lines[:, 0::2], lines[:, 1:-1:2], lines[:, -1]
    if not ((digits | 1) == ord("1")).all() or not (blanks == ord(" ")).all() or not (ends == ord("\n")).all():
        raise UserError(f"{name} is not lines of {_PIXELS} characters 0 or 1 separated by single blanks.")
    return digits & 1
