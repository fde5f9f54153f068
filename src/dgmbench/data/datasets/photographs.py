"""Patches of a handful of photographs that come inside installed Python packages.

Photographs are split, not patches: no image gives patches to two splits, and the group of a patch is its image.
The values are those of `data/patches.py`: dequantised, without their mean, without the last pixel.
"""

from pathlib import Path

from pydantic import Field

from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.data.patches import grey, pixels_sha256, write_patches
from dgmbench.errors import UserError, nearest


class Options(LoaderOptions):
    patch: int = Field(8, ge=2, le=32, description="Side of a patch in pixels.")
    train: int = Field(50_000, ge=1, le=10_000_000, description="Patches of the training split.")
    validation: int = Field(5_000, ge=1, le=10_000_000, description="Patches of the validation split.")
    test: int = Field(10_000, ge=1, le=10_000_000, description="Patches of the test split.")
    validation_images: tuple[str, ...] = Field(min_length=1, description="Files that give validation patches.")
    test_images: tuple[str, ...] = Field(min_length=1, description="Files that give test patches; the rest train.")
    seed: int = Field(0, ge=0, description="Seed of the places and of the noise.")


def describe(options: Options) -> Description:
    return Description("real", (options.patch**2 - 1,))


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    held_out = {"validation": options.validation_images, "test": options.test_images}
    used = [*options.validation_images, *options.test_images]
    if unknown := sorted(set(used) - files.keys()):
        raise UserError(f"there is no photograph '{unknown[0]}': {nearest(unknown[0], files)}")
    train = [name for name in files if name not in used]
    if len(set(used)) < len(used) or not train:
        raise UserError("each photograph belongs to one split: name none twice, and leave at least one to train on.")
    names = list(files)
    images = {name: grey(name, path.read_bytes()) for name, path in files.items()}
    for split, chosen in {"train": train, **held_out}.items():
        groups = [names.index(name) for name in chosen]
        chosen_images = [images[name] for name in chosen]
        write_patches(writer, split, chosen_images, groups, getattr(options, split), options.patch, options.seed)
    writer.note(
        images={split: list(chosen) for split, chosen in {"train": train, **held_out}.items()},
        groups="a group is a photograph, numbered in the order of the catalogue",
        pixels_sha256=pixels_sha256(list(images.values())),
    )
