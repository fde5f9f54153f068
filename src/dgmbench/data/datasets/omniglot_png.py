"""OMNIGLOT from its original drawings, 105 x 105, inverted (ink is 1) and reduced to 28 x 28 by area.

1,623 characters of 50 alphabets, each drawn once by 20 people; black on white, one bit. A pixel of the reduced image
is the mean of the ink in its 3.75 x 3.75 pixels, in integer arithmetic:

    x = A d A' / 225,    A (28, 105) with the overlaps in quarters of a pixel, rows summing to 15

All drawings are ordered by the SHA-256 of their names and cut into train, validation and test, so that every split
has drawings of every alphabet. The published 28 x 28 numbers are of another file (chardata.mat: other reduction, other
split, 32,415 drawings); these do not compare with them.

Reference: B. M. Lake, R. Salakhutdinov and J. B. Tenenbaum, "Human-level concept learning through probabilistic
program induction", Science 350 (2015).
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import Field

from dgmbench.data import binarization
from dgmbench.data.archives import members
from dgmbench.data.images import decode
from dgmbench.data.loading import SPLITS, Description, LoaderOptions, Writer
from dgmbench.data.splitting import nonempty
from dgmbench.errors import UserError

_FROM, _SIDE = 105, 28
_PARTS = 4 * _FROM // _SIDE  # quarters of a pixel that make a reduced one
_CHARACTERS = {"images_background.zip": 964, "images_evaluation.zip": 659}
_DRAWERS = 20
_BLOCK = 512  # drawings held at once


class Options(LoaderOptions):
    validation: int = Field(1345, ge=0, le=32_459, description="Drawings of the validation split.")
    test: int = Field(8070, ge=0, le=32_459, description="Drawings of the test split; the rest train.")
    binarize: binarization.Binarize = Field("none", description=binarization.MEANING)
    seed: int = Field(0, ge=0, description="Seed of the images that are drawn once.")


def describe(options: Options) -> Description:
    return binarization.description(options.binarize, (_SIDE, _SIDE), splits(options))


def splits(options: Options) -> tuple[str, ...]:
    return nonempty(train=1, validation=options.validation, test=options.test)


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    names: list[str] = []
    ink: list[np.ndarray] = []
    total = _DRAWERS * sum(_CHARACTERS.values())
    with writer.progress.task("drawings read", total=total, unit="drawing") as task:
        for archive, characters in _CHARACTERS.items():
            before = len(names)
            for block in _blocks(members(files[archive], "*.png")):
                drawings = np.stack([_drawing(f"{archive}: {name}", content) for name, content in block])
                ink.append(reduced(drawings))
                names += [name for name, _ in block]
                task.advance(len(block))
            _check_counts(archive, names[before:], characters)
    n = len(names)
    if options.validation + options.test >= n:
        raise UserError(f"{n:,} drawings leave none to train on: lower `validation` or `test`.")
    sums = np.concatenate(ink)
    kinds = {kind: number for number, kind in enumerate(sorted({_character(name) for name in names}))}
    label = np.array([kinds[_character(name)] for name in names])
    order = np.array(sorted(range(n), key=lambda row: hashlib.sha256(names[row].encode()).digest()))
    cuts = np.cumsum([n - options.validation - options.test, options.validation])
    for split, rows in zip(SPLITS, np.split(order, cuts)):
        if len(rows):
            grey = sums[rows] / np.float32(_PARTS**2)
            binarization.write(writer, split, grey, options.binarize, options.seed, labels=label[rows])
    binarization.note(writer, options.binarize, options.seed)
    writer.note(
        alphabets=", ".join(sorted({kind.split("/")[0] for kind in kinds})),
        order="the SHA-256 of the drawings' names",
        labels="the character, 0 ... 1622 in the order of alphabet and number",
        duplicates="two people drew the first character of Braille, a dot, as the same pixels",
        protocol="the 105 x 105 originals reduced by area; published 28 x 28 OMNIGLOT numbers are of another file",
    )


def reduced(drawings: np.ndarray) -> np.ndarray:
    """Ink (n, 105, 105) of {0, 1} -> 225 times its mean over areas (n, 784), uint8: exact."""
    edges = np.arange(_SIDE + 1) * _PARTS  # in quarters of a pixel
    pixels = 4 * np.arange(_FROM)
    overlap = np.minimum(edges[1:, None], pixels + 4) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(overlap, 0).astype(np.float32)  # small integers: sums of their products are exact
    return (weights @ drawings.astype(np.float32) @ weights.T).astype(np.uint8).reshape(len(drawings), -1)


def _blocks(found: Iterator[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    while block := list(islice(found, _BLOCK)):
        yield block


def _drawing(where: str, content: bytes) -> np.ndarray:
    """Ink (105, 105), bool."""
    drawing = decode(where, content, colour=False)
    if drawing.shape != (_FROM, _FROM) or not ((drawing == 0) | (drawing == 255)).all():
        raise UserError(f"{where} is not a drawing of {_FROM} x {_FROM} in black and white.")
    return drawing == 0


def _character(name: str) -> str:
    """ALPHABET/characterNN of .../ALPHABET/characterNN/XXXX_YY.png."""
    return "/".join(PurePosixPath(name).parts[-3:-1])


def _check_counts(archive: str, names: list[str], characters: int) -> None:
    found = Counter(map(_character, names))
    if len(found) != characters or set(found.values()) != {_DRAWERS}:
        raise UserError(f"{archive} does not hold {characters} characters with {_DRAWERS} drawings each.")
