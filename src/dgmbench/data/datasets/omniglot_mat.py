"""OMNIGLOT at 28 x 28 as the importance-weighted autoencoder's authors published it: one MATLAB file.

    data        784 x 24345    grey values in [0, 1], ink is 1, one image a column, itself column by column
    testdata    784 x 8070
    target, testtarget         50 x n, one-hot alphabets

The last 1,345 of the training images validate. Training images are binarized anew at every use, the others once. The
original code of DVAE# draws these once by numpy's legacy generator with seed 1; how it orders the draws is not
published beside the numbers, so that ours are other bits of the same grey values.

References: Y. Burda, R. Grosse and R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016 (the file);
B. M. Lake, R. Salakhutdinov and J. B. Tenenbaum, Science 350 (2015) (the drawings); A. Vahdat, E. Andriyash and
W. Macready, "DVAE#", NeurIPS 2018, the code beside it (split and binarization; section 4 says statically binarized).
"""

from pathlib import Path

import numpy as np
from pydantic import Field

from dgmbench.data import binarization
from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.data.matlab import arrays
from dgmbench.data.splitting import nonempty
from dgmbench.errors import UserError

_FILE, _SIDE, _ALPHABETS = "chardata.mat", 28, 50
_COLUMNS = {"data": 24_345, "testdata": 8070}
_TARGETS = {"data": "target", "testdata": "testtarget"}


class Options(LoaderOptions):
    validation: int = Field(1345, ge=0, le=24_344, description="Last images of the training part that validate.")
    binarize: binarization.Binarize = Field("training", description=binarization.MEANING)
    seed: int = Field(1, ge=0, description="Seed of the images that are drawn once.")


def describe(options: Options) -> Description:
    return binarization.description(options.binarize, (_SIDE, _SIDE), splits(options))


def splits(options: Options) -> tuple[str, ...]:
    return nonempty(train=1, validation=options.validation, test=1)


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    found = arrays(files[_FILE], *_COLUMNS, *_TARGETS.values())
    parts = {name: (_images(name, found[name]), _labels(name, found[_TARGETS[name]])) for name in _COLUMNS}
    x, labels = parts["data"]
    cut = len(x) - options.validation
    if cut < 1:
        raise UserError(f"{len(x):,} training images leave none beside {options.validation:,}: lower `validation`.")
    pieces = {"train": (x[:cut], labels[:cut]), "validation": (x[cut:], labels[cut:]), "test": parts["testdata"]}
    for split in splits(options):
        grey, label = pieces[split]
        binarization.write(writer, split, grey, options.binarize, options.seed, labels=label)
    binarization.note(writer, options.binarize, options.seed)
    writer.note(
        order="that of the file; the last of its training part validate",
        labels="the alphabet, 0 ... 49 in the file's order",
        protocol="validation and test bits drawn by this package's own generator, not by the published code's",
    )


def _images(name: str, x: np.ndarray) -> np.ndarray:
    """Columns that hold images column by column (784, n) -> (n, 784) row by row, float32 in [0, 1]."""
    if x.shape != (_SIDE**2, _COLUMNS[name]) or not np.isfinite(x).all() or x.min() < 0 or x.max() > 1:
        raise UserError(f"{_FILE}: '{name}' is {x.shape}, not {_COLUMNS[name]:,} columns of 784 values from 0 to 1.")
    upright = x.T.reshape(-1, _SIDE, _SIDE).transpose(0, 2, 1)
    return np.ascontiguousarray(upright, dtype=np.float32).reshape(len(upright), -1)


def _labels(name: str, onehot: np.ndarray) -> np.ndarray:
    expected = (_ALPHABETS, _COLUMNS[name])
    if onehot.shape != expected or not np.isin(onehot, (0, 1)).all() or not (onehot.sum(axis=0) == 1).all():
        raise UserError(f"{_FILE}: '{_TARGETS[name]}' is {onehot.shape}, not {expected} with one alphabet a column.")
    return onehot.argmax(axis=0)
