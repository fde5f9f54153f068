"""Whole photographs on which restoration is tested: an archive of images of several sizes, all in the test split.

    Set5, Set14       colour, super-resolution        Set12, BSD68      grey, denoising

Each row is one image on a canvas (data/images.py), in the order of the names in the archive. The 68 images of BSD68
are photographs of the test half of BSDS300: models trained on BSDS300's training half have not seen them.

References: M. Bevilacqua et al., BMVC 2012 (Set5); R. Zeyde, M. Elad and M. Protter, Curves and Surfaces 2010 (Set14);
S. Roth and M. J. Black, "Fields of Experts", IJCV 82 (2009) (BSD68); K. Zhang et al., IEEE TIP 26 (2017) (these files).
"""

from pathlib import Path, PurePosixPath

from pydantic import Field

from dgmbench.data.archives import members, open_text
from dgmbench.data.images import decode, write_whole
from dgmbench.data.loading import Description, LoaderOptions, Writer
from dgmbench.errors import UserError

_SUFFIXES = (".png", ".bmp")
_NUMBERS = ".tsv"  # lines of an image's name, a tab and its number in BSDS


class Options(LoaderOptions):
    images: int = Field(ge=1, le=1000, description="How many images the archive holds.")
    height: int = Field(ge=1, le=4096, description="Height of the canvas: that of the tallest image.")
    width: int = Field(ge=1, le=4096, description="Width of the canvas: that of the widest image.")
    colour: bool = Field(
        False, description="Whether the images are kept in colour; grey ones get three equal channels."
    )


def describe(options: Options) -> Description:
    return Description("unit", (options.height, options.width, *((3,) if options.colour else ())))


def splits(options: Options) -> tuple[str, ...]:
    return ("test",)


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    archive = next(path for name, path in files.items() if not name.endswith(_NUMBERS))
    found = {n: content for n, content in members(archive) if n.lower().endswith(_SUFFIXES)}
    if len(found) != options.images:
        raise UserError(f"{archive.name} holds {len(found)} images, not {options.images}: fetch it again.")
    names = sorted(found)
    images = [decode(f"{archive.name}: {name}", found[name], options.colour) for name in names]
    largest = max(image.shape[0] for image in images), max(image.shape[1] for image in images)
    if largest != (options.height, options.width):
        raise UserError(f"{archive.name}: the largest sides are {largest}, not {(options.height, options.width)}.")
    write_whole(writer, "test", images)
    short = [PurePosixPath(name).name for name in names]
    writer.note(
        images=short,
        order="the names of the images in the archive, sorted",
        groups="a group is an image, by its place in that order",
        canvas="each row is one image at the top left of a canvas of zeros; its mean counts the zeros too",
    )
    if numbers := next((path for name, path in files.items() if name.endswith(_NUMBERS)), None):
        writer.note(bsds_numbers=_bsds_numbers(numbers, short))


def _bsds_numbers(path: Path, names: list[str]) -> list[int]:
    """The number in the Berkeley Segmentation Dataset of each image."""
    rows = [line.split("\t") for line in open_text(path).splitlines() if line]
    if any(len(row) != 2 or not row[1].isdecimal() for row in rows) or sorted(row[0] for row in rows) != sorted(names):
        raise UserError(f"{path.name} is not one line with a name, a tab and a number for each of {len(names)} images.")
    return [int(number) for _, number in sorted(rows)]
