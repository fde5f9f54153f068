"""Images as arrays: decoding files that nobody has checked, fitting them to one size, and whole images of any size.

Grey is ITU-R 601 luma in integer arithmetic, (height, width); colour is (height, width, 3); both uint8, upright as the
file's orientation tag says. Colour profiles are not applied. What would change pixels unseen is refused: more than
8 bits, several frames, and transparent pixels where nothing is said about what they lie on.

Images of several sizes are kept in one array: each row is one image at the top left of a canvas of zeros, and the
certificate's note `sizes` tells the height and width of each, by split.

Reference: ITU-R Recommendation BT.601 (luma = 0.299 R + 0.587 G + 0.114 B).
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from dgmbench.data.loading import Writer
from dgmbench.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from dgmbench.data.prepared import Dataset

MAX_PIXELS = 50_000_000
Fit = Literal["area", "crop", "exact"]
# Decoders of pixels only: others of the library start programs or read vector graphics.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "PPM", "WEBP", "GIF")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})


def decode(name: str, content: bytes, colour: bool, background: int | None = None) -> np.ndarray:
    """An image file as uint8, (height, width) or (height, width, 3).

    Args:
        background: grey level, 0 ... 255, that transparent pixels are laid on.

    Raises `UserError`, with `name`, where it is no image, truncated, larger than 50 million pixels, of several frames
    or of other than 8 bits a channel, and where pixels are transparent and there is no background.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _check(name, image)
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = _opaque(name, upright, background)
            return np.asarray(upright.convert("RGB" if colour else "L"))
    except UserError:
        raise
    except Exception as error:  # the decoders raise nearly anything on damaged content
        raise UserError(f"{name} is not an image that can be read ({' '.join(str(error).split())}).") from error


def _check(name: str, image: "Image.Image") -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: reduce it.")
    # More than 8 bits of colour are opened as 8 bits, and only the way in which they are packed tells.
    packing = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
    kinds = {str(kind) for kind, *_ in packing} or {image.mode}
    deep = any(kind.endswith((";16B", ";16L", ";16N")) for kind in kinds)
    deep |= image.format == "PPM" and any(more and more[-1] > 255 for _, *more in packing)
    if image.mode not in _MODES or deep:
        more = " with more than 8 bits" if deep else ""
        raise UserError(
            f"{name} has pixels of kind '{', '.join(sorted(kinds))}'{more}: convert it to grey or RGB with 8 bits a "
            "channel."
        )
    # The further frames of a camera's MPO are previews or other views of the one photograph.
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise UserError(f"{name} has {frames} frames: save the one that counts as an image of its own.")


def _opaque(name: str, image: "Image.Image", background: int | None) -> "Image.Image":
    from PIL import Image

    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] == 255:
        return image
    if background is None:
        raise UserError(
            f"{name} has transparent pixels: lay it on a background, or name one (option `background`, where the "
            "dataset's loader has it)."
        )
    return Image.alpha_composite(Image.new("RGBA", image.size, (background, background, background, 255)), image)


def fitted(name: str, image: np.ndarray, height: int, width: int, fit: Fit) -> np.ndarray:
    """An image brought to (height, width): `area` crops its middle to the proportions and averages areas, `crop`
    takes its middle, `exact` takes it only if it has that size.

    An average is that of all pixels under an area, each by how much of it lies there, exact and rounded once. An image
    that is too small is enlarged by the same rule.

    Raises `UserError` where it is too small to be cropped, or of another size.
    """
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    if fit == "exact":
        raise UserError(f"{name} is {h} x {w}, not {height} x {width}: set option `fit` to area or crop.")
    if fit == "crop":
        if h < height or w < width:
            raise UserError(f"{name} is {h} x {w}, smaller than {height} x {width}: set option `fit` to area.")
        top, left = (h - height) // 2, (w - width) // 2
        return image[top : top + height, left : left + width]
    # The largest middle part with the proportions that are asked for.
    part_h, part_w = (h, max(1, h * width // height)) if h * width <= w * height else (max(1, w * height // width), w)
    top, left = (h - part_h) // 2, (w - part_w) // 2
    sums = _overlapping(image[top : top + part_h, left : left + part_w], height)
    sums = _overlapping(sums.swapaxes(0, 1), width).swapaxes(0, 1)
    return ((2 * sums + part_h * part_w) // (2 * part_h * part_w)).astype(np.uint8)


def _overlapping(values: np.ndarray, cells: int) -> np.ndarray:
    """Sums over equal cells of the first axis, (m, ...) -> (cells, ...), int64, weighted by overlaps times `cells`."""
    m = len(values)
    sums = np.empty((cells, *values.shape[1:]), dtype=np.int64)
    for cell in range(cells):
        low, high = cell * m, (cell + 1) * m
        first, last = low // cells, -(-high // cells)
        weights = np.diff(np.clip(np.arange(first, last + 1) * cells, low, high))
        sums[cell] = np.tensordot(weights, values[first:last].astype(np.int64), axes=1)
    return sums


def write_whole(writer: Writer, split: str, images: Sequence[np.ndarray], labels: np.ndarray | None = None) -> None:
    """Write images of several sizes, uint8, as rows of a split; values v / 255.

    The group of a row is the number of its image, counted on over the splits in the order in which they are written.
    """
    shape = writer.description.shape
    x = writer.create(split, len(images), np.float32)
    canvases = x.reshape(len(images), *shape)
    for row, image in enumerate(images):
        height, width = image.shape[:2]
        if image.shape[2:] != tuple(shape[2:]) or height > shape[0] or width > shape[1]:
            raise UserError(f"{split}: image {row + 1} is {image.shape} and does not lie on the canvas {shape}.")
        canvases[row, :height, :width] = image / np.float32(255)
    x.flush()
    sizes = writer.notes.get("sizes", {})
    before = sum(map(len, sizes.values()))
    writer.attach(split, labels=labels, groups=before + np.arange(len(images)))
    writer.note(sizes=sizes | {split: [list(image.shape[:2]) for image in images]})


def whole(data: "Dataset", split: str) -> list[np.ndarray]:
    """The images of a split, each of its own size: views (height, width) or (height, width, 3) of the mapped array.

    Raises `UserError` where the dataset holds vectors.
    """
    if len(data.shape) < 2:
        raise UserError(f"dataset '{data.name}' holds vectors of {data.dimension} values, no images: choose another.")
    x = data.splits[split].x
    canvases = x.reshape(len(x), *data.shape)
    sizes = data.certificate["notes"].get("sizes", {}).get(split) or [data.shape[:2]] * len(x)
    return [canvas[:height, :width] for canvas, (height, width) in zip(canvases, sizes, strict=True)]
