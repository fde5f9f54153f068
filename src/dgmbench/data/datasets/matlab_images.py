"""Labelled grey images as MATLAB matrices: `fea`, one image on each row, column by column, and `gnd`, its label.

    COIL20.mat           20 objects, 72 views each (the object turned by 5 degrees), 32 x 32, values in [0, 1]
    YaleB_32x32.mat      38 faces under about 64 lights each, frontal, cropped, 32 x 32, values 0 ... 255

References: S. A. Nene, S. K. Nayar and H. Murase, "Columbia Object Image Library (COIL-20)", CUCS-005-96 (1996);
A. S. Georghiades, P. N. Belhumeur and D. J. Kriegman, "From Few to Many: Illumination Cone Models for Face Recognition
under Variable Lighting and Pose", IEEE PAMI 23 (2001); D. Cai et al., who made these files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.data.matlab import arrays
from dgmbench.data.splitting import nonempty, split_rows
from dgmbench.errors import UserError

_SIDE = 32


@dataclass(frozen=True)
class _Known:
    """What is known of a file: its largest value, images of the labels 1, 2, ..., and notes for the certificate."""

    scale: float
    counts: tuple[int, ...]
    notes: dict[str, Any]


_FILES = {
    "COIL20.mat": _Known(1, (72,) * 20, {"labels": "the object, 1 ... 20"}),
    "YaleB_32x32.mat": _Known(
        255,
        (64,) * 10 + (60, 59, 60, 63, 62, 63, 63) + (64,) * 21,
        {
            "labels": "the subject, 1 ... 38 in the file's order",
            "protocol": "published results set 214 of the 2,414 images aside for validation, but not which: by "
            "default a seeded permutation draws as many",
        },
    ),
}


class Options(LoaderOptions):
    validation: int = Field(0, ge=0, le=100_000, description="Images set aside for validation.")
    test: int = Field(0, ge=0, le=100_000, description="Images set aside for testing.")
    seed: int = Field(0, ge=0, description="Seed of the permutation that splits the images.")


def describe(options: Options) -> Description:
    return Description("unit", (_SIDE, _SIDE))


def splits(options: Options) -> tuple[str, ...]:
    return nonempty(train=1, validation=options.validation, test=options.test)


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    name, path = next(iter(files.items()))
    if len(files) != 1 or name not in _FILES:
        raise UserError(f"the loader 'matlab_images' reads one of {', '.join(_FILES)}, not {', '.join(files)}.")
    known = _FILES[name]
    x, labels = _read(name, path, known)
    for split, rows in split_rows(len(x), options.validation, options.test, options.seed).items():
        rows = np.sort(rows)
        writer.write(split, x[rows], labels=labels[rows])
    writer.note(order="that of the file", **known.notes)


def _read(name: str, path: Path, known: _Known) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32) in [0, 1], float32, row by row, and labels (n,)."""
    found = arrays(path, "fea", "gnd")
    fea, gnd, n = found["fea"], found["gnd"], sum(known.counts)
    if fea.shape != (n, _SIDE * _SIDE) or gnd.size != n:
        raise UserError(f"{name} holds {fea.shape} values and {gnd.size} labels, not {n:,} images of 32 x 32.")
    labels = gnd.ravel()
    if not np.array_equal(np.sort(labels), np.repeat(np.arange(1, len(known.counts) + 1), known.counts)):
        raise UserError(f"{name} has not the known number of images of each label: fetch it again.")
    if not ((fea >= 0) & (fea <= known.scale)).all():
        raise UserError(f"{name} has values that are not between 0 and {known.scale}: fetch it again.")
    images = np.ascontiguousarray(fea).reshape(n, _SIDE, _SIDE).transpose(0, 2, 1)
    return (images / known.scale).astype(np.float32), labels.astype(np.int64)
