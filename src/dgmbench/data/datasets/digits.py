"""The 8 x 8 handwritten digits that come with scikit-learn: grey values 0 ... 16 and a label on each row.

    grey:    x = v / 16                binary:    x = 1 where v / 16 >= threshold, else 0

1,797 images, split by one seeded permutation. Reference: E. Alpaydin and C. Kaynak, "Optical Recognition of
Handwritten Digits", UCI Machine Learning Repository (1998), the test set of it.
"""

from pathlib import Path

import numpy as np
from pydantic import Field

from dgmbench.data.archives import open_text
from dgmbench.data.draws import permutation, stream
from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.errors import UserError

_IMAGES, _SIDE = 1797, 8


class Options(LoaderOptions):
    binary: bool = Field(False, description="Whether to threshold the grey values.")
    threshold: float = Field(0.5, gt=0, le=1, description="Grey value from which a pixel is 1, where binary.")
    train: int = Field(1197, ge=1, le=_IMAGES - 2, description="Images of the training split.")
    validation: int = Field(300, ge=1, le=_IMAGES - 2, description="Images of the validation split.")
    test: int = Field(300, ge=1, le=_IMAGES - 2, description="Images of the test split.")
    seed: int = Field(0, ge=0, description="Seed of the permutation that splits the images.")


def describe(options: Options) -> Description:
    return Description("binary" if options.binary else "unit", (_SIDE, _SIDE))


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    if (wanted := options.train + options.validation + options.test) > _IMAGES:
        raise UserError(f"the digits are {_IMAGES:,} images, but train + validation + test = {wanted:,}: lower one.")
    rows = open_text(files["digits.csv.gz"]).split()
    table = np.array([row.split(",") for row in rows], dtype=np.int64)
    if table.shape != (_IMAGES, _SIDE * _SIDE + 1) or table[:, :-1].max() > 16 or table.min() < 0:
        raise UserError(f"digits.csv.gz holds {table.shape}, not {_IMAGES} rows of 64 values 0 ... 16 and a label.")
    values, labels = table[:, :-1], table[:, -1]
    if options.binary:
        x = (values >= 16 * options.threshold).astype(np.uint8)
        writer.note(
            binarization=f"threshold: 1 where grey >= {options.threshold:g}, the same pixels always",
            duplicates="different grey images can have the same binary image, so that splits share a few rows",
        )
    else:
        x = (values / 16).astype(np.float32)
    order = permutation(stream(options.seed), _IMAGES)
    start = 0
    for split, n in (("train", options.train), ("validation", options.validation), ("test", options.test)):
        index = order[start : start + n]
        writer.write(split, x[index], labels=labels[index])
        start += n
    writer.note(order="a seeded permutation of the file's rows")
