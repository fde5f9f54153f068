"""USPS: handwritten digits of the ZIP codes on envelopes, 16 x 16, grey.

Text files, one image on each line: the digit, then 256 values in [-1, 1], row by row. A value v becomes (v + 1) / 2.
7,291 training and 2,007 test images; for clustering, all 9,298 `together`.

References: Y. Le Cun et al., "Handwritten Digit Recognition with a Back-Propagation Network", NIPS 1989; the files of
T. Hastie, R. Tibshirani and J. Friedman, "The Elements of Statistical Learning" (2009).
"""

from pathlib import Path

import numpy as np
from pydantic import Field

from dgmbench.data.archives import open_bytes
from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.data.splitting import nonempty, split_rows
from dgmbench.data.tables import LIMITS, numbers
from dgmbench.errors import UserError

_SIDE = 16
_TRAIN, _TEST = "zip.train.gz", "zip.test.gz"
# Images of the digits 0 ... 9, as zip.info.txt gives them.
_COUNTS = {
    _TRAIN: (1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644),
    _TEST: (359, 264, 198, 166, 200, 160, 170, 147, 166, 177),
}


class Options(LoaderOptions):
    together: bool = Field(False, description="Whether the test images are part of the training split, for clustering.")
    validation: int = Field(0, ge=0, le=9297, description="Training images set aside for validation.")
    seed: int = Field(0, ge=0, description="Seed of the validation images.")


def describe(options: Options) -> Description:
    return Description("unit", (_SIDE, _SIDE))


def splits(options: Options) -> tuple[str, ...]:
    return nonempty(train=1, validation=options.validation, test=not options.together)


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    with writer.progress.task("read", total=2, unit="file") as task:
        tables = []
        for name in (_TRAIN, _TEST):
            tables.append(_read(name, files[name]))
            task.advance()
    (x, labels), test = tables
    if options.together:
        x, labels = np.concatenate([x, test[0]]), np.concatenate([labels, test[1]])
    for split, rows in split_rows(len(x), options.validation, 0, options.seed).items():
        rows = np.sort(rows)
        writer.write(split, x[rows], labels=labels[rows])
    if not options.together:
        writer.write("test", test[0], labels=test[1])
    writer.note(order="that of the files", labels="the digit, 0 ... 9")


def _read(name: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 256) in [0, 1], float32, and digits (n,) of one file."""
    counts = _COUNTS[name]
    table = numbers(name, open_bytes(path, LIMITS), sum(counts), _SIDE * _SIDE + 1, separator=None)
    labels, values = table[:, 0], table[:, 1:]
    if not np.array_equal(np.sort(labels), np.repeat(np.arange(10), counts)):
        raise UserError(f"{name} has not the numbers of images of each digit that zip.info.txt gives: fetch it again.")
    if not (np.abs(values) <= 1).all():
        raise UserError(f"{name} has values that are not between -1 and 1: fetch it again.")
    return ((values + 1) / 2).astype(np.float32), labels.astype(np.int64)
