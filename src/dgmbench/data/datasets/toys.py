"""Two-dimensional toy densities, generated: no files.

    two-moons        half circles (cos t, sin t) and (1 - cos t, 1/2 - sin t), t uniform on [0, pi)
    moon-circle      a half circle of radius 2 around a full circle of radius 1/2 at (0, 1/2)
    two-circles      circles of radius 1 and 2 about the origin, uniform along their length: one point in three inside
    rings            the same two circles with equally many points
    eight-gaussians  eight centres on the circle of radius 2
    checkerboard     uniform on the squares of [-2, 2]^2 where floor(x) + floor(y) is even

each point moved by N(0, noise^2 I); the label is the component (the column, for the checkerboard). The first
three are the clustering toys (two-moon, moon-circle, two-circle) of E. Banijamali, A. Ghodsi and P. Poupart,
"Generative Mixture of Networks", section 4.1.1, with 4,000, 4,000 and 4,500 points. The paper gives no radii, noise
or proportions: those here are choices.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import PCG64
from pydantic import Field

from dgmbench.data.draws import below, normal, stream, uniform
from dgmbench.data.loading import SPLITS, Description, LoaderOptions, Writer

Shape = Literal["two-moons", "moon-circle", "two-circles", "rings", "eight-gaussians", "checkerboard"]


class Options(LoaderOptions):
    shape: Shape = Field("two-moons", description="Which density.")
    noise: float = Field(0.08, ge=0, le=10, description="Standard deviation of the noise on both coordinates.")
    train: int = Field(4000, ge=1, le=10_000_000, description="Points of the training split.")
    validation: int = Field(1000, ge=1, le=10_000_000, description="Points of the validation split.")
    test: int = Field(4000, ge=1, le=10_000_000, description="Points of the test split.")
    seed: int = Field(0, ge=0, description="Seed of the points.")


def describe(options: Options) -> Description:
    return Description("real", (2,))


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    for number, split in enumerate(SPLITS):
        n, bits = getattr(options, split), stream(options.seed, number)
        points, labels = _points(options.shape, n, bits)
        noise = options.noise * np.stack([normal(bits, n), normal(bits, n)], axis=1)
        writer.write(split, (points + noise).astype(np.float32), labels=labels)
    writer.note(order="independent draws")


def _points(shape: Shape, n: int, bits: PCG64) -> tuple[np.ndarray, np.ndarray]:
    """Noiseless points (n, 2) and their components (n,)."""
    components = {"eight-gaussians": 8, "checkerboard": 4, "two-circles": 3}.get(shape, 2)
    label = below(bits, components, n)
    if shape == "two-circles":
        label = np.minimum(label, 1)  # two thirds of the points on the longer circle
    u = uniform(bits, n)
    if shape == "checkerboard":
        row = 2 * below(bits, 2, n) + label % 2
        return np.stack([label - 2 + u, row - 2 + uniform(bits, n)], axis=1), label
    if shape == "eight-gaussians":
        angle = label * (np.pi / 4)
        return 2.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1), label
    first = (label == 0)[:, None]
    moon = np.stack([np.cos(np.pi * u), np.sin(np.pi * u)], axis=1)
    circle = np.stack([np.cos(2 * np.pi * u), np.sin(2 * np.pi * u)], axis=1)
    if shape == "two-moons":
        return np.where(first, moon, np.array([1.0, 0.5]) - moon), label
    if shape == "moon-circle":
        return np.where(first, 2.0 * moon, np.array([0.0, 0.5]) + 0.5 * circle), label
    return np.where(first, circle, 2.0 * circle), label
