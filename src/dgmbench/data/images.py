"""Images as arrays: decoding files that nobody has checked, fitting them to one size, and whole images of any size.

Grey is ITU-R 601 luma in integer arithmetic, (height, width); colour is (height, width, 3); both uint8, upright as the
file's orientation tag says. Transparency is dropped.

Images of several sizes are kept in one array: each row is one image at the top left of a canvas of zeros, and the
certificate's note `sizes` tells the height and width of each, by split.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from dgmbench.data.loading import Writer
from dgmbench.errors import UserError

if TYPE_CHECKING:
    from dgmbench.data.prepared import Dataset

MAX_PIXELS = 50_000_000
Fit = Literal["area", "crop", "exact"]
_EIGHT_BIT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"})


def decode(name: str, content: bytes, colour: bool) -> np.ndarray:
    """An image file as uint8, (height, width) or (height, width, 3).

    Raises `UserError`, with `name`, where it is no image, truncated, larger than 50 million pixels, or not of 8 bits.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: reduce it."
                )
            if image.mode not in _EIGHT_BIT:
                raise UserError(f"{name} has pixels of kind '{image.mode}': convert it to 8 bits for each channel.")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB" if colour else "L"))
    except UserError:
        raise
    except Exception as error:  # the decoders raise nearly anything on damaged content
        raise UserError(f"{name} is not an image that can be read ({' '.join(str(error).split())}).") from error


def fitted(name: str, image: np.ndarray, height: int, width: int, fit: Fit) -> np.ndarray:
    """An image brought to (height, width): `area` crops its middle to the proportions and averages areas, `crop`
    takes its middle, `exact` takes it only if it has that size.

    Raises `UserError` where it is too small to be cropped, or of another size.
    """
    from PIL import Image

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
    middle = Image.fromarray(image[top : top + part_h, left : left + part_w])
    return np.asarray(middle.resize((width, height), Image.Resampling.BOX))


def write_whole(writer: Writer, split: str, images: Sequence[np.ndarray], labels: np.ndarray | None = None) -> None:
    """Write images of several sizes, uint8, as rows of a split; values v / 255. The group of a row is its number."""
    shape = writer.description.shape
    x = writer.create(split, len(images), np.float32)
    canvases = x.reshape(len(images), *shape)
    for row, image in enumerate(images):
        height, width = image.shape[:2]
        if image.ndim != len(shape) or height > shape[0] or width > shape[1]:
            raise UserError(f"{split}: image {row + 1} is {image.shape}, too large for the canvas {shape}.")
        canvases[row, :height, :width] = image / np.float32(255)
    x.flush()
    writer.attach(split, labels=labels, groups=np.arange(len(images)))
    sizes = writer.notes.get("sizes", {})
    writer.note(sizes=sizes | {split: [list(image.shape[:2]) for image in images]})


def whole(data: "Dataset", split: str) -> list[np.ndarray]:
    """The images of a split, each of its own size: views (height, width) or (height, width, 3) of the mapped array."""
    x = data.splits[split].x
    canvases = x.reshape(len(x), *data.shape)
    sizes = data.certificate["notes"].get("sizes", {}).get(split) or [data.shape[:2]] * len(x)
    return [canvas[:height, :width] for canvas, (height, width) in zip(canvases, sizes)]
