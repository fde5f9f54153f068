"""Patches of the Berkeley Segmentation Dataset, 300 photographs.

180 of the 200 training images give the training patches, the other 20 (a seeded permutation of their sorted
names) the validation patches, and the 100 test images the test patches; the group of a patch is its image.
The values are those of `data/patches.py`: dequantised, without their mean, without the last pixel.

References: D. Martin, C. Fowlkes, D. Tal and J. Malik, "A Database of Human Segmented Natural Images and its
Application to Evaluating Segmentation Algorithms and Measuring Ecological Statistics", ICCV 2001; the protocol
of B. Uria, I. Murray and H. Larochelle, "RNADE: The real-valued neural autoregressive density-estimator".
"""

from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import Field

from dgmbench.data.archives import members
from dgmbench.data.draws import permutation, stream
from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.data.patches import grey, pixels_sha256, write_patches
from dgmbench.errors import UserError

_ARCHIVE = "BSDS300-images.tgz"
_SPLIT_KEY = 10  # apart from the streams of the three splits' patches


class Options(LoaderOptions):
    patch: int = Field(8, ge=2, le=32, description="Side of a patch in pixels.")
    train: int = Field(500_000, ge=1, le=10_000_000, description="Patches of the training split.")
    validation: int = Field(50_000, ge=1, le=10_000_000, description="Patches of the validation split.")
    test: int = Field(100_000, ge=1, le=10_000_000, description="Patches of the test split.")
    validation_images: int = Field(20, ge=1, le=199, description="Training images set aside for validation.")
    seed: int = Field(0, ge=0, description="Seed of the validation images, the places and the noise.")


def describe(options: Options) -> Description:
    return Description("real", (options.patch**2 - 1,))


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    train, test = _images(files[_ARCHIVE], "train"), _images(files[_ARCHIVE], "test")
    if len(train) <= options.validation_images or not test:
        raise UserError(f"{_ARCHIVE} holds {len(train)} training and {len(test)} test images: too few.")
    names = sorted(train)
    order = permutation(stream(options.seed, _SPLIT_KEY), len(names))
    validation = sorted(names[i] for i in order[: options.validation_images])
    splits = {
        "train": {name: train[name] for name in names if name not in validation},
        "validation": {name: train[name] for name in validation},
        "test": {name: test[name] for name in sorted(test)},
    }
    for split, images in splits.items():
        # An image's own number is its group, unique over both halves of the archive.
        groups = [int(name) for name in images]
        count = getattr(options, split)
        write_patches(writer, split, list(images.values()), groups, count, options.patch, options.seed)
        writer.note(**{f"{split}_pixels_sha256": pixels_sha256(list(images.values()))})
    writer.note(
        images={split: len(images) for split, images in splits.items()},
        validation_images=validation,
        groups="a group is an image, by its number in the archive",
    )


def _images(archive: Path, half: str) -> dict[str, np.ndarray]:
    return {
        PurePosixPath(name).stem: grey(name, content) for name, content in members(archive, f"*/images/{half}/*.jpg")
    }
