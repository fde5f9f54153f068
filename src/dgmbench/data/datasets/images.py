"""A folder or an archive of images of the user's own: every image brought to one size. One YAML entry and no code.

    grey        x = v / 255                  (height, width)
    colour      x = v / 255 for each channel (height, width, 3)
    binary      x = 1 where v / 255 >= threshold

Images are taken in the order of their names, and split by a seeded permutation. A folder is fetched as a zip of its
files (data/folder.py); zip, tar and tar.gz archives are read as they are, twice: names first, then pixels straight to
their rows, so that no more than one image is held. Other files are passed over and counted in the certificate, among
them those whose names begin with a dot, which some systems add to archives.
"""

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import Field, model_validator

from dgmbench.data.archives import members
from dgmbench.data.images import Fit, decode, fitted
from dgmbench.data.loading import SPLITS, Description, LoaderOptions, Writer
from dgmbench.data.splitting import split_rows
from dgmbench.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp", ".gif")


class Options(LoaderOptions):
    height: int = Field(ge=1, le=1024, description="Height that every image is brought to, in pixels.")
    width: int = Field(ge=1, le=1024, description="Width that every image is brought to, in pixels.")
    colour: bool = Field(False, description="Whether to keep three channels.")
    fit: Fit = Field(
        "area", description="area: crop to the proportions and average; crop: the middle; exact: as it is."
    )
    invert: bool = Field(False, description="Whether dark becomes bright: 1 - x.")
    threshold: float | None = Field(None, gt=0, le=1, description="Pixels of at least this value are 1, others 0.")
    background: int | None = Field(
        None, ge=0, le=255, description="Grey level under transparent pixels; without one, they are refused."
    )
    labels: bool = Field(False, description="Whether the folder of an image, its whole path, is its label.")
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
    names = _names(path, writer)
    places = _places(archive, len(names), options)
    arrays = {split: writer.create(split, len(rows), _dtype(options)) for split, rows in places.items()}
    target = {names[image]: (arrays[split], row) for split, rows in places.items() for row, image in enumerate(rows)}
    with writer.progress.task("images read", total=len(names), unit="image") as task:
        for name, content in members(path):
            if not is_image(name):
                continue
            where = f"{archive}: {name}"
            image = decode(where, content, options.colour, options.background)
            x, row = target[name]
            x[row] = _values(fitted(where, image, options.height, options.width, options.fit), options).ravel()
            task.advance()
    folders = sorted({_folder(name) for name in names})
    number = {folder: label for label, folder in enumerate(folders)}
    labels = np.array([number[_folder(name)] for name in names])
    for split, rows in places.items():
        arrays[split].flush()
        writer.attach(split, labels=labels[rows] if options.labels else None)
    writer.note(order="a seeded permutation of the images in the order of their names")
    if options.labels:
        writer.note(labels=f"the folder of an image: {', '.join(f'{i} {name}' for i, name in enumerate(folders))}")
    if options.threshold is not None:
        writer.note(binarization=f"threshold: 1 where v / 255 >= {options.threshold:g}, the same pixels always")


def _names(path: Path, writer: Writer) -> list[str]:
    """The names of the images, sorted; how many files of which kind are none is noted."""
    names, others = [], Counter()
    for name, _ in members(path):
        if is_image(name):
            names.append(name)
        else:
            hidden = PurePosixPath(name).name.startswith(".")
            others["hidden" if hidden else PurePosixPath(name).suffix.lower() or "no suffix"] += 1
    if others:
        writer.note(passed_over=dict(sorted(others.items())))
    return sorted(names)


def _places(archive: str, n: int, options: Options) -> dict[str, np.ndarray]:
    """Which image, by its number, each row of a split is."""
    counts = {split: round(getattr(options, split) * n) for split in ("validation", "test")}
    lacking = [split for split, count in counts.items() if count == 0 and getattr(options, split) > 0]
    if n == 0 or lacking:
        what = f"for a {lacking[0]} split" if n else "to prepare"
        raise UserError(f"{archive} holds {n} images, too few {what}: add some ({', '.join(SUFFIXES)}).")
    return split_rows(n, counts["validation"], counts["test"], options.seed)


def is_image(name: str) -> bool:
    """Whether a file of a folder or archive counts as one of its images; hidden ones do not."""
    return name.lower().endswith(SUFFIXES) and not PurePosixPath(name).name.startswith(".")


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()


def _dtype(options: Options) -> type:
    return np.float32 if options.threshold is None else np.uint8


def _values(x: np.ndarray, options: Options) -> np.ndarray:
    x = 255 - x if options.invert else x
    return x / np.float32(255) if options.threshold is None else x >= 255 * options.threshold
