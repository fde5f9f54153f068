"""ISOLET: the letters A ... Z, each spoken twice by 150 people, as 617 acoustic features.

Text files, one spoken letter on each line: 617 values in [-1, 1] with four decimals, then the letter 1 ... 26. Four
groups of 30 speakers (6,238 rows) train and the fifth (1,559) tests; for clustering, all 7,797 `together`. Three
recordings are missing.

Copies of the files differ in the order of the rows and in the container: text, gzip, `compress` (.Z), or the zip of
the repository with the .Z files inside. So the rows of each file are put into one order, by letter and then by
values, and every copy gives the same arrays.

Reference: M. Fanty and R. Cole, "Spoken Letter Recognition", NIPS 1990.
"""

from pathlib import Path
from zipfile import is_zipfile

import numpy as np
from pydantic import Field

from dgmbench.data.archives import members, open_bytes
from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.data.lzw import expand, is_lzw
from dgmbench.data.splitting import nonempty, split_rows
from dgmbench.data.tables import LIMITS, numbers
from dgmbench.errors import UserError

_FEATURES = 617
_TRAIN, _TEST = "isolet1+2+3+4.data", "isolet5.data"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Rows of the letters A ... Z: 240 and 60 where nothing is missing.
_COUNTS = {
    _TRAIN: tuple(238 if letter == "F" else 240 for letter in _LETTERS),
    _TEST: tuple(59 if letter == "M" else 60 for letter in _LETTERS),
}


class Options(LoaderOptions):
    together: bool = Field(False, description="Whether the test rows are part of the training split, for clustering.")
    scaled: bool = Field(False, description="Whether to map the features from [-1, 1] to [0, 1].")
    validation: int = Field(0, ge=0, le=7796, description="Training rows set aside for validation.")
    seed: int = Field(0, ge=0, description="Seed of the validation rows.")


def describe(options: Options) -> Description:
    return Description("unit" if options.scaled else "real", (_FEATURES,))


def splits(options: Options) -> tuple[str, ...]:
    return nonempty(train=1, validation=options.validation, test=not options.together)


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    with writer.progress.task("read", total=2, unit="file") as task:
        tables = []
        for name in (_TRAIN, _TEST):
            tables.append(_read(name, files[name], options.scaled))
            task.advance()
    (x, labels), test = tables
    if options.together:
        x, labels = np.concatenate([x, test[0]]), np.concatenate([labels, test[1]])
    for split, rows in split_rows(len(x), options.validation, 0, options.seed).items():
        rows = np.sort(rows)
        writer.write(split, x[rows], labels=labels[rows])
    if not options.together:
        writer.write("test", test[0], labels=test[1])
    writer.note(order="within each file by letter, then by values", labels="the letter, 1 is A ... 26 is Z")


def _read(name: str, path: Path, scaled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 617), float32, and letters (n,) of one file, in the order of letters and values."""
    counts = _COUNTS[name]
    table = numbers(name, _content(name, path), sum(counts), _FEATURES + 1, separator=",")
    values, labels = table[:, :-1] + 0.0, table[:, -1]  # + 0.0 turns -0.0000 into 0
    if not np.array_equal(np.sort(labels), np.repeat(np.arange(1, 27), counts)):
        raise UserError(f"{name} has not the known number of rows of each letter: fetch it again.")
    if not (np.abs(values) <= 1).all():
        raise UserError(f"{name} has values that are not between -1 and 1: fetch it again.")
    order = np.lexsort([*values.T[::-1], labels])
    values = (values[order] + 1) / 2 if scaled else values[order]
    return values.astype(np.float32), labels[order].astype(np.int64)


def _content(name: str, path: Path) -> bytes:
    """The text of one file, from any of its containers."""
    if is_lzw(path):
        return expand(name, path.read_bytes(), LIMITS)
    if not is_zipfile(path):
        return open_bytes(path, LIMITS)
    packed = [content for _, content in members(path, f"{name}.Z", LIMITS)]
    if not packed:
        raise UserError(f"{path.name} is a zip without a member {name}.Z: fetch it again.")
    return expand(f"{name}.Z", packed[0], LIMITS)
