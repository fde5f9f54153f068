"""CIFAR-10 reduced to 8 x 8 grey, as vectors of 63 values: a stand-in for 80 Million Tiny Images, which was withdrawn.

CIFAR-10 is the labelled part of that set. The values are those of `data/patches.py`: dequantised, without their mean,
without the last pixel. 50,000 images, of which a seeded permutation sets some aside for validation, and 10,000 that
test. The file was derived from JPEG copies: its pixels differ from the originals' by half a grey level on average.

References: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009); the protocol of A. van den
Oord and B. Schrauwen, "Factoring Variations in Natural Images with Deep Gaussian Mixture Models", section 4.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
from pydantic import Field

from dgmbench.data.draws import noise24, permutation, stream
from dgmbench.data.loading import SPLITS, Description, LoaderOptions, Writer
from dgmbench.data.patches import dequantized
from dgmbench.data.splitting import nonempty
from dgmbench.errors import UserError

_SIDE, _CLASSES = 8, 10
_ROWS = {"train": 50_000, "test": 10_000}
_EXPANDED = 64 << 20  # bytes that the arrays may hold, far above their 4 MB
_NOISE, _SPLIT = 30, 31  # keys of the random streams


class Options(LoaderOptions):
    validation: int = Field(5000, ge=0, le=49_999, description="Training images set aside for validation.")
    seed: int = Field(0, ge=0, description="Seed of the permutation and of the noise.")


def describe(options: Options) -> Description:
    return Description("real", (_SIDE**2 - 1,))


def splits(options: Options) -> tuple[str, ...]:
    return nonempty(train=1, validation=options.validation, test=1)


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    name, path = next(iter(files.items()))
    arrays = _read(name, path)
    n = len(arrays["x_train"])
    if options.validation >= n:
        raise UserError(f"{n:,} training images leave none beside {options.validation:,}: lower `validation`.")
    order = permutation(stream(options.seed, _SPLIT), n)
    rows = {"train": np.sort(order[options.validation :]), "validation": np.sort(order[: options.validation])}
    pieces = {split: (arrays["x_train"][r], arrays["y_train"][r]) for split, r in rows.items()}
    pieces["test"] = arrays["x_test"], arrays["y_test"]
    for split in splits(options):
        pixels, labels = pieces[split]
        pixels = pixels.reshape(len(pixels), -1)
        noise = noise24(stream(options.seed, _NOISE, 1 + SPLITS.index(split)), pixels.size).reshape(pixels.shape)
        writer.write(split, dequantized(pixels, noise), labels=labels)
    writer.note(
        order="train and validation in the order of CIFAR-10's training batches, test sorted by class",
        labels="0 airplane, 1 automobile, 2 bird, 3 cat, 4 deer, 5 dog, 6 frog, 7 horse, 8 ship, 9 truck",
        protocol="CIFAR-10 from JPEG copies, reduced to 8 x 8, not 80 Million Tiny Images",
    )


def _read(name: str, path: Path) -> dict[str, np.ndarray]:
    """x_train, x_test (n, 8, 8) uint8 and y_train, y_test (n,) of an .npz, bounded, checked, never unpickled."""
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > _EXPANDED:
                raise UserError(f"{name} expands to more than {_EXPANDED:,} bytes: refused.")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {key: np.asarray(archive[key]) for key in ("x_train", "y_train", "x_test", "y_test")}
    except UserError:
        raise
    except Exception as error:  # whatever a damaged archive makes its readers raise
        raise UserError(f"{name} is not the archive of four arrays that it should be ({error}).") from error
    for split, rows in _ROWS.items():
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.shape != (rows, _SIDE, _SIDE) or x.dtype != np.uint8 or y.shape != (rows,) or y.dtype.kind not in "iu":
            raise UserError(
                f"{name}: {split} is {x.dtype} {x.shape} with labels {y.dtype} {y.shape}, not {rows:,} images."
            )
        if y.min() < 0 or y.max() >= _CLASSES:
            raise UserError(f"{name}: {split} has labels {y.min()} ... {y.max()}, not 0 ... {_CLASSES - 1}.")
    return {key: value.astype(np.int64) if key.startswith("y") else value for key, value in arrays.items()}
