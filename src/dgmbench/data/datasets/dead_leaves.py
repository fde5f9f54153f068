"""Mini dead leaves: patches of texture, flat or split by one straight edge, whose texture is fitted on photographs.

    flat    x = m + t z,  z ~ N(0, S), t = t_k with probability w_k, m the mean of a photograph's patch at random
    edge    a line {p : p . (cos a, sin a) = r}, a uniform on [0, pi), r uniform where the line leaves pixels on
            both sides; each side is that part of a flat patch of its own, the two independent

The texture (w, t, S) is a Gaussian scale mixture of photograph patches without their mean (data/scale_mixture.py): the
mean m is drawn apart from it, so that an edge is a step between two grey levels whatever the contrast t. Patches
to fit on are dequantised first, else one of constant grey would have an unbounded density. x is rounded to 0 ... 255,
and what is written is that of `data/patches.py`, on the scale of natural patches: dequantised, without
its mean, without the last pixel. The label is 0 for flat and 1 for edge.

Reference: D. Zoran and Y. Weiss, "Natural Images, Gaussian Mixtures and Dead Leaves", NIPS 2012. The probability of
an edge and the distribution of the line are not known from it here: they are choices.

The bytes do not depend on the machine. The fit is the only linear algebra in floating point, and what it gives is
rounded to multiples of 2^-12 (2^-10 for scales) before use, a billion times coarser than its rounding errors. Normal
draws are rounded to multiples of 2^-16: a product with the factor is then a sum of integers below 2^53, exact in any
order. Angles come from a table rounded to 2^-12, so that the sides of a line are found in integers.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import PCG64
from pydantic import Field, model_validator

from dgmbench.data.archives import members
from dgmbench.data.draws import below, noise24, normal, stream
from dgmbench.data.loading import SPLITS, Description, LoaderOptions, Writer
from dgmbench.data.patches import dequantized, grey, pixels_sha256
from dgmbench.data.scale_mixture import fit
from dgmbench.errors import UserError

_ARCHIVES = (".tgz", ".tar.gz", ".tar", ".zip")
_TEXTURE_KEY = 10  # apart from the streams of the three splits
_CHUNK = 1 << 13  # a part of the definition: normal draws come in blocks of this many patches
_ANGLES = 1 << 12
_WEIGHT = 1 << 12  # weights are integers that sum to this


class Options(LoaderOptions):
    patch: int = Field(8, ge=2, le=16, description="Side of a patch in pixels.")
    edge: float = Field(0.5, ge=0, le=1, description="Probability of an edge.")
    scales: int = Field(8, ge=1, le=32, description="Scales of the texture's Gaussian scale mixture.")
    iterations: int = Field(60, ge=1, le=10_000, description="Steps of the texture's fit.")
    texture_patches: int = Field(20_000, ge=100, le=1_000_000, description="Photograph patches to fit the texture on.")
    members: str = Field("*", min_length=1, description="Glob of the images in a file that is an archive.")
    train: int = Field(50_000, ge=1, le=10_000_000, description="Patches of the training split.")
    validation: int = Field(5_000, ge=1, le=10_000_000, description="Patches of the validation split.")
    test: int = Field(10_000, ge=1, le=10_000_000, description="Patches of the test split.")
    seed: int = Field(0, ge=0, description="Seed of the texture's patches and of all draws.")

    @model_validator(mode="after")
    def _enough(self) -> "Options":
        if self.texture_patches < 10 * self.patch**2:
            raise ValueError(f"texture_patches must be at least 10 * patch^2 = {10 * self.patch**2}")
        return self


@dataclass(frozen=True)
class Texture:
    """What flat patches of D pixels are drawn from.

    Attributes:
        weights: (k,) integers that sum to 2^12, probabilities times 2^12.
        scales: (k,) contrasts in grey levels.
        factor: (D, D - 1), S = factor factor', whose columns sum to zero.
        means: (n,) means of photograph patches in grey levels.
    """

    weights: np.ndarray
    scales: np.ndarray
    factor: np.ndarray
    means: np.ndarray


def describe(options: Options) -> Description:
    return Description("real", (options.patch**2 - 1,))


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    images = [image for name, path in files.items() for image in _images(name, path, options)]
    texture, history = fit_texture(images, options, writer)
    for number, split in enumerate(SPLITS):
        n, labels = getattr(options, split), []
        streams = [stream(options.seed, number, purpose) for purpose in range(1, 8)]
        noise, x = streams.pop(), writer.create(split, n)
        with writer.progress.task(f"{split} patches", total=n, unit="patch") as task:
            for start in range(0, n, _CHUNK):
                values, label = draw(texture, options, min(_CHUNK, n - start), streams)
                x[start : start + len(label)] = dequantized(values, noise24(noise, values.size).reshape(values.shape))
                labels.append(label)
                task.advance(len(label))
        x.flush()
        writer.attach(split, labels=np.concatenate(labels))
    writer.note(
        order="independent draws",
        labels="0 flat, 1 edge",
        images=len(images),
        pixels_sha256=pixels_sha256(images),
        texture={"weights": (texture.weights / _WEIGHT).tolist(), "scales_grey_levels": texture.scales.tolist()},
        # Rounded, so that the certificate does not depend on the last bits of the fit.
        texture_log_likelihood_nats=round(history[-1], 6),
        protocol="probability of an edge, line and means of patches are choices of this package",
    )


def fit_texture(images: list[np.ndarray], options: Options, writer: Writer) -> tuple[Texture, list[float]]:
    """The texture of grey images, uint8, and the mean log-likelihood along its fit (nats of D - 1 grey levels)."""
    size = options.patch**2
    values = _patches(images, options)
    noise = noise24(stream(options.seed, _TEXTURE_KEY, 3), values.size).reshape(values.shape)
    y = 256.0 * dequantized(values, noise).astype(np.float64)
    mixture, history = fit(y, options.scales, options.iterations, writer.progress)
    # A scale for which no patch is left keeps weight 0 and is never drawn.
    weights = np.rint(mixture.weights * _WEIGHT).astype(np.int64)
    weights[np.argmax(weights)] += _WEIGHT - weights.sum()
    factor = np.rint(np.linalg.cholesky(mixture.shape) * 2.0**12) * 2.0**-12
    factor = np.concatenate([factor, -factor.sum(axis=0, keepdims=True)])
    scales = np.rint(mixture.scales * 2.0**10) * 2.0**-10
    return Texture(weights, scales, factor, values.sum(axis=1, dtype=np.int64) / size), history


def draw(texture: Texture, options: Options, n: int, streams: list[PCG64]) -> tuple[np.ndarray, np.ndarray]:
    """n patches: grey levels (n, D), int64 in 0 ... 255, and labels (n,), 1 for an edge. Six streams are used."""
    label = (below(streams[0], 1 << 32, n) < round(options.edge * 2.0**32)).astype(np.int64)
    other = second_sides(options.patch, n, streams[1], streams[2]) & (label == 1)[:, None]
    sides = flat(texture, 2 * n, *streams[3:])
    values = np.where(other, sides[n:], sides[:n])
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.int64), label


def flat(texture: Texture, n: int, means: PCG64, scales: PCG64, normals: PCG64) -> np.ndarray:
    """n flat patches m + t z before they are rounded and clipped: (n, D), grey levels."""
    m = texture.means[below(means, len(texture.means), n)]
    k = np.searchsorted(np.cumsum(texture.weights), below(scales, _WEIGHT, n), side="right")
    columns = texture.factor.shape[1]
    e = np.rint(normal(normals, n * columns).reshape(n, columns) * 2.0**16) * 2.0**-16
    return m[:, None] + texture.scales[k][:, None] * (e @ texture.factor.T)


def second_sides(patch: int, n: int, angles: PCG64, distances: PCG64) -> np.ndarray:
    """Which pixels lie beyond n random lines: (n, D), bool, with both values in every row."""
    place = 2 * np.arange(patch, dtype=np.int64) - (patch - 1)
    y, x = (part.ravel() for part in np.meshgrid(place, place, indexing="ij"))
    angle = np.arange(_ANGLES) * (np.pi / _ANGLES)
    cosine, sine = (np.rint(f(angle) * 2.0**12).astype(np.int64) for f in (np.cos, np.sin))
    which = below(angles, _ANGLES, n)
    along = cosine[which][:, None] * x + sine[which][:, None] * y
    low, high = along.min(axis=1), along.max(axis=1)
    return along > (low + below(distances, high - low, n))[:, None]


def _patches(images: list[np.ndarray], options: Options) -> np.ndarray:
    """Patches at places drawn uniformly over images, then over the positions in each: (n, D), int64."""
    n, side = options.texture_patches, options.patch
    which = below(stream(options.seed, _TEXTURE_KEY, 1), len(images), n)
    u = stream(options.seed, _TEXTURE_KEY, 2).random_raw(2 * n).reshape(2, n) >> np.uint64(32)
    values = np.empty((n, side, side), dtype=np.int64)
    for number, image in enumerate(images):
        rows = np.flatnonzero(which == number)
        windows = np.lib.stride_tricks.sliding_window_view(image, (side, side))
        places = [(u[axis, rows] * np.uint64(windows.shape[axis])) >> np.uint64(32) for axis in (0, 1)]
        values[rows] = windows[places[0], places[1]]
    return values.reshape(n, -1)


def _images(name: str, path: Path, options: Options) -> list[np.ndarray]:
    """The grey images of a file: itself, or the members of an archive in the order of their names."""
    if not name.endswith(_ARCHIVES):
        return [_image(name, path.read_bytes(), options)]
    found = sorted(members(path, options.members))
    if not found:
        raise UserError(f"{name} has no member that matches '{options.members}': choose another `members`.")
    return [_image(f"{name}, {member}", content, options) for member, content in found]


def _image(name: str, content: bytes, options: Options) -> np.ndarray:
    image = grey(name, content)
    if min(image.shape) < options.patch:
        raise UserError(f"{name} of {image.shape[0]} x {image.shape[1]} has no patch of side {options.patch}.")
    return image
