"""Samples of every row that was sampled: one panel for each row, of its first seed."""

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from dgmbench.assemble.figures.base import COLORS, FAINT, WIDTH, FigureData, FigureOptions, new_figure, nothing_to_show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 8  # pictures beside each other in a panel
_TITLE = 14  # characters of a title to an inch
_CHARACTERS, _MOST_LINES = 120, 8  # of the note below the panels


class Options(FigureOptions):
    side: int | None = Field(
        None, ge=1, description=f"Pictures along a panel's edge; as many as there are, up to {SIDE}, if left out."
    )


def draw(data: FigureData, options: Options) -> "Figure":
    """A panel for each row that was sampled; those that were to be are named below."""
    rows, missing = list(data.samples), [row for row in data.missing if row not in data.samples]
    if not rows and not missing:
        return nothing_to_show("No row of this experiment was sampled.")
    if not rows:
        reasons = list(dict.fromkeys(data.missing.values()))
        return nothing_to_show("\n".join(["No samples are here yet.", *reasons[:3]]))
    most = max(len(samples) for samples in data.samples.values())
    side = options.side or min(SIDE, math.isqrt(most))
    columns = min(4, len(rows))
    lines = math.ceil(len(rows) / columns)
    panel = min(WIDTH / columns, 2.2)
    named = "; ".join(f"{data.labels.get(row, row)} ({data.missing[row]})" for row in missing)
    below = textwrap.wrap(f"Without samples: {named}", _CHARACTERS)[:_MOST_LINES] if missing else []
    figure, axes = new_figure(lines, columns, height=lines * (panel + 0.25) + 0.13 * len(below))
    for panel_axes, row in zip(axes.flat, rows):
        title = textwrap.wrap(data.labels.get(row, row), round(_TITLE * panel))
        panel_axes.set_title("\n".join(title), weight="normal", loc="center")
        _panel(panel_axes, data.samples[row], data.shapes.get(row, data.samples[row].shape[1:]), side)
    for unused in axes.flat[len(rows) :]:
        unused.axis("off")
    if below:
        figure.supxlabel("\n".join(below), fontsize=7, color=FAINT)
    return figure


def _panel(axes: "Axes", samples: np.ndarray, shape: tuple[int, ...], side: int) -> None:
    if shape == (2,):
        axes.scatter(samples[:, 0], samples[:, 1], s=2, color=COLORS[0], linewidths=0, rasterized=True)
        axes.set_aspect("equal")
        axes.set_xlabel("first value")
        axes.set_ylabel("second value")
        return
    axes.axis("off")
    pictures, contrast = as_pictures(samples[: side * side], shape)
    if pictures is None:
        axes.imshow(samples[: side * side], aspect="auto")
        return
    # "none": SVG and PDF hold the picture's own pixels, and the viewer enlarges them without smoothing.
    axes.imshow(mosaic(pictures, side, contrast), vmin=0, vmax=1)


def as_pictures(samples: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray | None, bool]:
    """(n, d) samples as (n, height, width) or (n, height, width, 3) pictures, and whether each needs its own contrast.

    Vectors of p^2 - 1 values are p x p patches whose mean was subtracted and whose last pixel was dropped: it is
    minus the sum of the others. Other vectors are no pictures and give None.
    """
    flat = np.asarray(samples, dtype=np.float64).reshape(len(samples), -1)
    if len(shape) == 1:
        side = math.isqrt(shape[0] + 1)
        if side < 3 or side**2 != shape[0] + 1:
            return None, False
        return np.column_stack([flat, -flat.sum(1)]).reshape(-1, side, side), True
    outside = flat.size and (flat.min() < -0.5 or flat.max() > 1.5)
    return flat.reshape(-1, *shape), bool(outside)


def mosaic(pictures: np.ndarray, side: int, contrast: bool, paper: float = 1.0) -> np.ndarray:
    """Pictures in a square with gaps of the paper's grey; with `contrast` each is stretched to [0, 1]."""
    if contrast:
        low = pictures.min(axis=(1, 2), keepdims=True)
        reach = pictures.max(axis=(1, 2), keepdims=True) - low
        pictures = (pictures - low) / np.where(reach > 0, reach, 1)
    height, width = pictures.shape[1:3]
    gap = max(1, round(height / 14))
    lines = math.ceil(len(pictures) / side)
    canvas = np.full((lines * (height + gap) - gap, side * (width + gap) - gap, *pictures.shape[3:]), paper)
    for index, picture in enumerate(np.clip(pictures, 0, 1)):
        top, left = (index // side) * (height + gap), (index % side) * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas
