"""Patches of grey photographs as vectors of p^2 - 1 real values, the usual protocol of density models of images.

A pixel v in {0, ..., 255} of a p x p patch becomes

    u_i = (v_i + e_i) / 256, e_i uniform on [0, 1);    x_i = u_i - (1 / p^2) sum_j u_j;    i = 1 ... p^2 - 1,

that is, dequantised, with its mean removed and, as the p^2 values then sum to zero, without the last pixel.
Reference: A. van den Oord and B. Schrauwen, "Factoring Variations in Natural Images with Deep Gaussian Mixture
Models", section 4; the protocol is that of B. Uria, I. Murray and H. Larochelle, "RNADE".

The arithmetic is exact: e has 24 bits, sums are integers below 2^53, and each value is rounded once where p is a
power of two. The same seed therefore gives the same bytes on every machine.
"""

import hashlib
import io
from collections.abc import Sequence

import numpy as np

from dgmbench.data.draws import below, noise24, stream
from dgmbench.data.loading import SPLITS, Writer
from dgmbench.errors import UserError

_CHUNK = 1 << 14


def grey(name: str, content: bytes) -> np.ndarray:
    """An image file as grey values, ITU-R 601 luma in integer arithmetic: (height, width), uint8."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("L"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} is not an image that can be read ({error}).") from error


def pixels_sha256(images: Sequence[np.ndarray]) -> str:
    """One checksum of all decoded pixels: says whether two image decoders agree."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()


def dequantized(values: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Pixels (n, p^2) of 0 ... 255 and noise of 24 bits -> x (n, p^2 - 1) of the equation above, float32."""
    size = values.shape[1]
    fixed = (values.astype(np.int64) << 24) + noise
    centred = size * fixed - fixed.sum(axis=1, keepdims=True)
    return (centred[:, :-1] / (size * 2.0**32)).astype(np.float32)


def write_patches(
    writer: Writer, split: str, images: Sequence[np.ndarray], groups: Sequence[int], n: int, patch: int, seed: int
) -> None:
    """Write a split of n patches at places drawn uniformly over images, then over the positions in each.

    The group of a patch is the number of its image.
    """
    which, places, noise = (stream(seed, SPLITS.index(split), purpose) for purpose in range(3))
    pixels = np.concatenate([image.ravel() for image in images])
    height, width = np.array([image.shape for image in images]).T
    if min(height.min(), width.min()) < patch:
        raise UserError(f"{split}: an image of {height.min()} x {width.min()} has no patch of {patch} x {patch}.")
    first = np.concatenate([[0], np.cumsum(height * width)[:-1]])
    inside = np.arange(patch)
    x = writer.create(split, n)
    group = np.empty(n, dtype=np.int64)
    with writer.progress.task(f"{split} patches", total=n, unit="patch") as task:
        for start in range(0, n, _CHUNK):
            rows = slice(start, min(start + _CHUNK, n))
            image = below(which, len(images), rows.stop - start)
            # Two draws for each patch, y then x, so that the result does not depend on the size of a chunk.
            positions = np.stack([height[image], width[image]], axis=1) - patch + 1
            y, left = below(places, positions.ravel(), 2 * len(image)).reshape(-1, 2).T
            corner = (first[image] + y * width[image] + left)[:, None, None]
            index = corner + inside[:, None] * width[image][:, None, None] + inside
            values = pixels[index].reshape(len(image), -1)
            x[rows] = dequantized(values, noise24(noise, values.size).reshape(values.shape))
            group[rows] = np.asarray(groups)[image]
            task.advance(len(image))
    x.flush()
    writer.attach(split, groups=group)
