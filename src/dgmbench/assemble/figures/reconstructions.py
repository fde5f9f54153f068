"""A line for each row: examples, the same after a few Gibbs steps of the model, and the hidden units' receptive fields.

    input x  ->  p(x_i = 1 given the hidden units) in the last Gibbs step

Reference: Baumann, "An introduction to deep generative models", 2018, figures 3 and 6.
"""

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from dgmbench.assemble.figures.base import FAINT, WIDTH, FigureData, FigureOptions, new_figure, nothing_to_show
from dgmbench.assemble.figures.samples import as_pictures, mosaic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ESTIMATOR = "reconstructions"


class Options(FigureOptions):
    arrays_of = (ESTIMATOR,)

    side: int | None = Field(None, ge=1, description="Pictures along a panel's edge; as many as there are if left out.")
    fields: bool = Field(True, description="Whether the receptive fields are shown.")


def draw(data: FigureData, options: Options) -> "Figure":
    """A line of panels for each row; one that has nothing says why."""
    found, missing = data.arrays.get(ESTIMATOR, {}), data.missing_arrays.get(ESTIMATOR, {})
    rows = [row for row in dict.fromkeys(data.cells["row"]) if row in found or row in missing]
    if not found:
        reasons = list(dict.fromkeys(missing.values())) or [f"No row is evaluated by '{ESTIMATOR}'."]
        return nothing_to_show("\n".join(["No reconstruction is here yet.", *reasons[:3]]))
    names = ["inputs", "reconstructions", *(["fields"] if options.fields else [])]
    panel = min(WIDTH / len(names) - 0.15, 2.1)
    figure, axes = new_figure(len(rows), len(names), height=len(rows) * (panel + 0.3))
    for index, row in enumerate(rows):
        letter, label = chr(ord("a") + index % 26), textwrap.shorten(data.labels.get(row, row), 60, placeholder=" ...")
        axes[index, 0].set_title(f"{letter}  {label}")
        for axis in axes[index]:
            axis.axis("off")
        if row not in found:
            axes[index, 0].text(
                0.5, 0.5, textwrap.fill(missing[row], 36), ha="center", va="center", color=FAINT, fontsize=7
            )
            continue
        steps = int(found[row]["steps"][0])
        titles = {
            "inputs": "input",
            "reconstructions": f"after {steps} Gibbs step{'s' if steps > 1 else ''}",
            "fields": "receptive fields",
        }
        for axis, name in zip(axes[index], names):
            _pictures(axis, found[row][name], data.shapes.get(row), options.side, name == "fields")
            axis.text(0.5, -0.02, titles[name], transform=axis.transAxes, ha="center", va="top", fontsize=7)
    return figure


def _pictures(axes: "Axes", values: np.ndarray, shape: tuple[int, ...] | None, side: int | None, fields: bool) -> None:
    """A square of pictures; without a known shape, squares where the number of pixels is one."""
    edge = math.isqrt(values.shape[1])
    shape = shape or ((edge, edge) if edge**2 == values.shape[1] else (values.shape[1],))
    side = int(side or max(1, math.isqrt(len(values))))
    values = values[: side * side]
    pictures, contrast = as_pictures(values, shape)
    if pictures is None:
        axes.imshow(values, aspect="auto")
        return
    axes.imshow(mosaic(pictures, side, contrast or fields), vmin=0, vmax=1)
