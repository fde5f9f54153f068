"""A folder or an archive of images of the user's own: every image brought to one size. One YAML entry and no code.

    grey        x = v / 255                  (height, width)
    colour      x = v / 255 for each channel (height, width, 3)
    binary      x = 1 where v / 255 >= threshold

Images are taken in the order of their names, and split by a seeded permutation. A folder is fetched as a zip of its
files (data/folder.py); zip, tar and tar.gz archives are read as they are.
"""

from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import Field, model_validator

from dgmbench.data.archives import members
from dgmbench.data.images import Fit, decode, fitted
from dgmbench.data.loading import SPLITS, Description, LoaderOptions, Writer
from dgmbench.data.splitting import split_rows
from dgmbench.errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp", ".gif")


class Options(LoaderOptions):
    height: int = Field(ge=1, le=1024, description="Height that every image is brought to, in pixels.")
    width: int = Field(ge=1, le=1024, description="Width that every image is brought to, in pixels.")
    colour: bool = Field(False, description="Whether to keep three channels.")
    fit: Fit = Field(
        "area", description="area: crop to the proportions and average; crop: the middle; exact: as it is."
    )
    invert: bool = Field(False, description="Whether dark becomes bright: 1 - x.")
    threshold: float | None = Field(None, gt=0, le=1, description="Pixels of at least this value are 1, others 0.")
    labels: bool = Field(False, description="Whether the folder that an image lies in is its label.")
    validation: float = Field(0.1, ge=0, lt=1, description="Fraction of the images that validate.")
    test: float = Field(0.2, ge=0, lt=1, description="Fraction of the images that test.")
    seed: int = Field(0, ge=0, description="Seed of the permutation.")

    @model_validator(mode="after")
    def _some_train(self) -> "Options":
        if self.validation + self.test >= 1:
            raise ValueError("'validation' and 'test' together leave nothing to train on: lower one")
        return self


def describe(options: Options) -> Description:
    shape = (options.height, options.width, *((3,) if options.colour else ()))
    return Description("unit" if options.threshold is None else "binary", shape)


def splits(options: Options) -> tuple[str, ...]:
    held_out = {"train": 1.0, "validation": options.validation, "test": options.test}
    return tuple(split for split in SPLITS if held_out[split] > 0)


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    if len(files) != 1:
        raise UserError(f"the loader 'images' reads exactly one folder or archive, but the entry names {len(files)}.")
    archive, path = next(iter(files.items()))
    found: dict[str, np.ndarray] = {}
    with writer.progress.task("images read", total=path.stat().st_size, unit="byte") as task:
        for name, content in members(path):
            if name.lower().endswith(_SUFFIXES):
                where = f"{archive}: {name}"
                image = decode(where, content, options.colour)
                found[name] = fitted(where, image, options.height, options.width, options.fit)
            task.advance(len(content))
    names = sorted(found)
    counts = {split: round(getattr(options, split) * len(names)) for split in ("validation", "test")}
    if not names or (wanted := [s for s in counts if getattr(options, s) > 0 and counts[s] == 0]):
        lacking = "to prepare" if not names else f"for a {wanted[0]} split"
        raise UserError(f"{archive} holds {len(names)} images, too few {lacking}: add some ({', '.join(_SUFFIXES)}).")
    folders = sorted({_folder(name) for name in names})
    label = np.array([folders.index(_folder(name)) for name in names])
    for split, rows in split_rows(len(names), counts["validation"], counts["test"], options.seed).items():
        x = np.stack([found[names[row]] for row in rows])
        writer.write(split, _values(x, options), labels=label[rows] if options.labels else None)
    writer.note(order="a seeded permutation of the images in the order of their names")
    if options.labels:
        writer.note(labels=f"the folder of an image: {', '.join(f'{i} {name}' for i, name in enumerate(folders))}")
    if options.threshold is not None:
        writer.note(binarization=f"threshold: 1 where grey >= {options.threshold:g}, the same pixels always")


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.name or "."


def _values(x: np.ndarray, options: Options) -> np.ndarray:
    x = 255 - x if options.invert else x
    if options.threshold is not None:
        return (x >= 255 * options.threshold).astype(np.uint8)
    return x / np.float32(255)
