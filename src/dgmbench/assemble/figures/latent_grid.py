"""A line for each row: what the decoder makes of a grid in the latent plane, and where the encoder puts the examples.

    left: E[x given u] for u on the grid    right: E[u given x] of the examples, by class where there are labels

Reference: Baumann, "An introduction to deep generative models", 2018, figure 12; Kingma and Welling, "Auto-encoding
variational Bayes", ICLR 2014, figure 4.
"""

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from dgmbench.assemble.figures.base import (
    COLORS,
    FAINT,
    INK,
    MARKERS,
    WIDTH,
    FigureData,
    FigureOptions,
    new_figure,
    nothing_to_show,
)
from dgmbench.assemble.figures.samples import as_pictures, mosaic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ESTIMATOR = "latent_grid"
_SHOWN = 2000  # posterior means in a panel


class Options(FigureOptions):
    """This figure has none."""

    arrays_of = (ESTIMATOR,)


def draw(data: FigureData, options: Options) -> "Figure":
    """A grid and a cloud of posterior means for each row."""
    found, missing = data.arrays.get(ESTIMATOR, {}), data.missing_arrays.get(ESTIMATOR, {})
    rows = [row for row in dict.fromkeys(data.cells["row"]) if row in found or row in missing]
    if not found:
        reasons = list(dict.fromkeys(missing.values())) or [f"No row is evaluated by '{ESTIMATOR}'."]
        return nothing_to_show("\n".join(["No grid is here yet.", *reasons[:3]]))
    figure, axes = new_figure(len(rows), 2, height=len(rows) * (WIDTH / 2 + 0.2))
    for index, row in enumerate(rows):
        label = textwrap.shorten(data.labels.get(row, row), 60, placeholder=" ...")
        axes[index, 0].set_title(f"{chr(ord('a') + index % 26)}  {label}")
        if row in found:
            _grid(axes[index, 0], found[row], data.shapes.get(row))
            _means(axes[index, 1], found[row])
            continue
        for axis in axes[index]:
            axis.axis("off")
        reason = textwrap.fill(missing[row], 36)
        axes[index, 0].text(0.5, 0.5, reason, ha="center", va="center", color=FAINT, fontsize=7)
    return figure


def _grid(axes: "Axes", arrays: dict[str, np.ndarray], shape: tuple[int, ...] | None) -> None:
    pictures, reach = arrays["pictures"], float(arrays["reach"][0])
    side, edge = math.isqrt(len(pictures)), math.isqrt(pictures.shape[1])
    shape = shape or ((edge, edge) if edge**2 == pictures.shape[1] else (pictures.shape[1],))
    images, contrast = as_pictures(pictures, shape)
    extent = (-reach, reach, -reach, reach)
    axes.set_xlabel("first latent variable")
    axes.set_ylabel("second latent variable")
    if images is None:
        # Vectors are no pictures: their first value stands for them.
        axes.imshow(pictures[:, 0].reshape(side, side), extent=extent)
        return
    axes.imshow(mosaic(images, side, contrast), extent=extent, vmin=0, vmax=1)


def _means(axes: "Axes", arrays: dict[str, np.ndarray]) -> None:
    from matplotlib.patches import Rectangle

    if "means" not in arrays:
        axes.axis("off")
        return
    reach, means = float(arrays["reach"][0]), arrays["means"][:_SHOWN]
    labels = arrays.get("labels", np.zeros(len(means), dtype=np.int64))[:_SHOWN]
    for place, label in enumerate(np.unique(labels)):
        own = means[labels == label]
        # Seven colours and seven markers: marker and colour part company after the first seven classes.
        marker = MARKERS[(place + place // len(COLORS)) % len(MARKERS)]
        color = COLORS[place % len(COLORS)]
        name = str(label) if "labels" in arrays else "examples"
        look = {"color": color, "markersize": 2, "linestyle": "none", "alpha": 0.6, "rasterized": True}
        axes.plot(own[:, 0], own[:, 1], marker, label=name, **look)
    axes.add_patch(Rectangle((-reach, -reach), 2 * reach, 2 * reach, fill=False, edgecolor=INK, linewidth=0.8))
    axes.set_aspect("equal")
    axes.set_xlabel("first posterior mean")
    axes.set_ylabel("second posterior mean")
    if "labels" in arrays:
        axes.legend(title="class", markerscale=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
