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
from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import Field

from dgmbench.data import binarization
from dgmbench.data.archives import members
from dgmbench.data.images import decode
from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.data.splitting import nonempty
from dgmbench.errors import UserError

_FROM, _SIDE = 105, 28
_CHARACTERS = {"images_background.zip": 964, "images_evaluation.zip": 659}
_DRAWERS = 20


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
    drawings: dict[str, np.ndarray] = {}
    total = _DRAWERS * sum(_CHARACTERS.values())
    with writer.progress.task("drawings read", total=total, unit="drawing") as task:
        for archive, characters in _CHARACTERS.items():
            before = len(drawings)
            for name, content in members(files[archive], "*.png"):
                drawing = decode(f"{archive}: {name}", content, colour=False)
                if drawing.shape != (_FROM, _FROM) or not np.isin(drawing, (0, 255)).all():
                    raise UserError(f"{archive}: {name} is not a drawing of {_FROM} x {_FROM} in black and white.")
                drawings[name] = drawing == 0
                task.advance()
            _check_counts(archive, list(drawings)[before:], characters)
    if options.validation + options.test >= len(drawings):
        raise UserError(f"{len(drawings):,} drawings leave none to train on: lower `validation` or `test`.")
    order = sorted(drawings, key=lambda name: hashlib.sha256(name.encode()).digest())
    kinds = {kind: number for number, kind in enumerate(sorted({_character(name) for name in drawings}))}
    cuts = np.cumsum([len(order) - options.validation - options.test, options.validation])
    for split, names in zip(("train", "validation", "test"), np.split(np.array(order), cuts)):
        if len(names):
            x = reduced(np.stack([drawings[name] for name in names]))
            labels = np.array([kinds[_character(name)] for name in names])
            binarization.write(writer, split, x, options.binarize, options.seed, labels=labels)
    binarization.note(writer, options.binarize, options.seed)
    writer.note(
        order="the SHA-256 of the drawings' names",
        labels="the character, 0 ... 1622 in the order of alphabet and number",
        protocol="the 105 x 105 originals reduced by area; published 28 x 28 OMNIGLOT numbers are of another file",
    )


def reduced(drawings: np.ndarray) -> np.ndarray:
    """Ink (n, 105, 105) of {0, 1} -> its mean over areas (n, 784), float32, exact before its one rounding."""
    edges = np.arange(_SIDE + 1) * (_FROM * 4 // _SIDE)  # in quarters of a pixel: 15 to a reduced pixel
    pixels = 4 * np.arange(_FROM)
    overlap = np.minimum(edges[1:, None], pixels + 4) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(overlap, 0).astype(np.float32)  # small integers: sums of their products are exact
    ink = np.empty((len(drawings), _SIDE * _SIDE), dtype=np.float32)
    for start in range(0, len(drawings), 512):
        part = drawings[start : start + 512].astype(np.float32)
        ink[start : start + 512] = (weights @ part @ weights.T).reshape(len(part), -1)
    return ink / np.float32(225)


def _character(name: str) -> str:
    """ALPHABET/characterNN of .../ALPHABET/characterNN/XXXX_YY.png."""
    return "/".join(PurePosixPath(name).parts[-3:-1])


def _check_counts(archive: str, names: list[str], characters: int) -> None:
    found = Counter(map(_character, names))
    if len(found) != characters or set(found.values()) != {_DRAWERS}:
        raise UserError(f"{archive} does not hold {characters} characters with {_DRAWERS} drawings each.")
