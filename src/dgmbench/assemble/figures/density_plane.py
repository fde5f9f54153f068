"""Densities in the plane, one column for each row: transformations above, density, data and one sampling path below.

    mass inside the contour through x = sum over {y: p(y) > p(x)} of p(y) / sum of p(y),  y on the grid

Reference: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, figure 1. Regions of highest density: Hyndman, "Computing and graphing highest density regions", The American
Statistician, 1996.
"""

import itertools
import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from dgmbench.assemble.figures.base import FAINT, INK, WIDTH, FigureData, FigureOptions, new_figure, nothing_to_show
from dgmbench.data import catalogue

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ESTIMATOR = "density_plane"
PERCENT = (10, 30, 50, 70, 90, 99)  # of the mass, inside the contours
RED = "#c1121f"
PER_LINE = 3
POINTS = 250  # of the data, drawn
DIAGRAM_HEIGHT = 1.35  # inches, with the title
ROOM = 0.75  # how far a trail may widen a panel on each side, as a share of the grid's width


class Options(FigureOptions):
    arrays_of = (ESTIMATOR,)

    points: int = Field(POINTS, ge=0, description="How many examples are drawn.")
    trail: bool = Field(True, description="Whether the path of the sampler is drawn.")


def draw(data: FigureData, options: Options) -> "Figure":
    """A diagram of the mixture and a panel of its density for each row."""
    found, missing = data.arrays.get(ESTIMATOR, {}), data.missing_arrays.get(ESTIMATOR, {})
    rows = [row for row in dict.fromkeys(data.cells["row"]) if row in found or row in missing]
    if not found:
        reasons = list(dict.fromkeys(missing.values())) or [f"No row is evaluated by '{ESTIMATOR}'."]
        return nothing_to_show("\n".join(["No density is here yet.", *reasons[:3]]))
    columns = min(PER_LINE, len(rows))
    lines = math.ceil(len(rows) / columns)
    datasets = data.cells.drop_duplicates("row").set_index("row")["dataset"].to_dict()
    limits = _limits(found, datasets, options.trail)
    shape = max((high - low)[1] / (high - low)[0] for low, high in limits.values())
    panel_height = min(shape * ((WIDTH - 1.0) / columns - 0.35), 3.2) + 0.45  # inches, with the axis' label
    heights = [DIAGRAM_HEIGHT, panel_height] * lines
    figure, axes = new_figure(2 * lines, columns, height=sum(heights) + 0.3, height_ratios=heights)
    handles: dict[str, object] = {}
    contours = None
    for index, row in enumerate(rows):
        line, column = divmod(index, columns)
        diagram, panel = axes[2 * line, column], axes[2 * line + 1, column]
        title = textwrap.fill(data.labels.get(row, row), 30)
        diagram.set_title(f"{chr(ord('a') + index % 26)}  {title}")
        diagram.axis("off")
        if row not in found:
            panel.axis("off")
            panel.text(0.5, 0.5, textwrap.fill(missing[row], 30), ha="center", va="center", color=FAINT, fontsize=7)
            continue
        arrays = found[row]
        path = arrays.get("path") if options.trail else None
        _diagram(diagram, [int(size) for size in arrays["layers"]], path)
        contours = _density(panel, arrays, options.points, handles)
        if path is not None:
            _trail(panel, arrays["trail"], handles)
        low, high = limits[datasets.get(row, "")]
        panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        unit = _unit(datasets.get(row, ""))
        panel.set_xlabel(f"first value [{unit}]")
        panel.set_ylabel(f"second value [{unit}]" if column == 0 else "")
    for unused in range(len(rows), lines * columns):
        axes[2 * (unused // columns), unused % columns].axis("off")
        axes[2 * (unused // columns) + 1, unused % columns].axis("off")
    if contours is not None:
        bar = figure.colorbar(contours, ax=axes[1::2].ravel().tolist(), shrink=0.85 / lines, aspect=20, pad=0.02)
        bar.set_label("mass inside the contour [%]")
        bar.outline.set_linewidth(0.5)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), markerscale=1.6
    )
    return figure


def mass_above(density: np.ndarray) -> np.ndarray:
    """For every point of the grid, the share of the grid's mass at points of higher density: 0 at the mode."""
    flat = np.asarray(density, dtype=np.float64).ravel()
    order = flat.argsort(kind="stable")[::-1]
    mass = flat[order].cumsum()
    above = np.empty_like(flat)
    above[order] = (mass - flat[order]) / mass[-1]
    return above.reshape(density.shape)


def _unit(dataset: str) -> str:
    """Generated toys have no unit; other data have that of their values."""
    known = catalogue.entries()
    return "no unit" if dataset in known and known[dataset].loader == "toys" else "data units"


def _limits(found: dict, datasets: dict, trail: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Lower left and upper right corner of each dataset's panels: the grids, and the trails where there is room."""
    limits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for row, arrays in found.items():
        left, right, bottom, top = arrays["extent"]
        low, high = np.array([left, bottom]), np.array([right, top])
        if trail and "trail" in arrays:
            room, pad = ROOM * (high - low), 0.05 * (high - low)
            reach = arrays["trail"]
            low = np.minimum(low, np.maximum(reach.min(0) - pad, low - room))
            high = np.maximum(high, np.minimum(reach.max(0) + pad, high + room))
        known = limits.get(datasets.get(row, ""), (low, high))
        limits[datasets.get(row, "")] = (np.minimum(low, known[0]), np.maximum(high, known[1]))
    return limits


def _density(panel: "Axes", arrays: dict[str, np.ndarray], points: int, handles: dict) -> object:
    """Filled regions of highest density, and the data's first points on them."""
    left, right, bottom, top = arrays["extent"]
    lines, columns = arrays["density"].shape
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    y = bottom + (np.arange(lines) + 0.5) * (top - bottom) / lines
    mass = 100 * mass_above(arrays["density"])
    # Contours of a fine grid have tens of thousands of corners: a picture of them takes far fewer bytes. The tints tell
    # the regions apart; a line is drawn where the outermost one meets the paper.
    contours = panel.contourf(x, y, mass, levels=[0, *PERCENT], cmap="Blues_r", vmin=-8, vmax=106, rasterized=True)
    panel.contour(x, y, mass, levels=PERCENT[-1:], colors=INK, linewidths=0.35, alpha=0.5, rasterized=True)
    shown = arrays["data"][:points]
    handles.setdefault(
        "data", panel.scatter(shown[:, 0], shown[:, 1], s=1.3, color=INK, linewidths=0, alpha=0.75, rasterized=True)
    )
    return contours


def _trail(panel: "Axes", trail: np.ndarray, handles: dict) -> None:
    """z, the point after each layer, and x, joined by arrows: red with a white edge, which grey printing keeps."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=2.8, foreground="white")]
    for start, stop in itertools.pairwise(trail):
        arrow = FancyArrowPatch(start, stop, arrowstyle="-|>", mutation_scale=8, shrinkA=0, shrinkB=3, zorder=4)
        arrow.set(color=RED, linewidth=1.1, path_effects=edge)
        panel.add_patch(arrow)
    marks = {"color": RED, "edgecolors": "white", "linewidths": 0.7, "zorder": 5}
    first = panel.scatter(*trail[0], marker="s", s=26, **marks)
    if len(trail) > 2:
        panel.scatter(*trail[1:-1].T, marker="o", s=22, **marks)
    last = panel.scatter(*trail[-1], marker="*", s=75, **marks)
    handles.setdefault("z ~ N(0, I)", first)
    handles.setdefault("sample x, through one transformation of each layer", last)


def _diagram(axes: "Axes", sizes: list[int], path: np.ndarray | None) -> None:
    """z at the top, a circle for each transformation of each layer, x at the bottom; the sampled path in red."""
    from matplotlib.collections import LineCollection

    axes.set(xlim=(-0.62, 0.62), ylim=(-0.6, len(sizes) + 1.6))
    counts = [1, *sizes, 1]
    heights = np.arange(len(counts))[::-1]
    wide = max(counts)
    places = [(np.arange(n) - (n - 1) / 2) / max(wide, 5) for n in counts]
    edges = [
        ((a, heights[i]), (b, heights[i + 1])) for i in range(len(counts) - 1) for a in places[i] for b in places[i + 1]
    ]
    axes.add_collection(LineCollection(edges, colors="#b5b5b5", linewidths=0.5 if wide > 6 else 0.7, zorder=1))
    radius = min(64.0, 5500.0 / max(wide, 5) ** 2)  # points squared, so that the widest layer's circles do not touch
    chosen = None if path is None else [0, *(int(node) for node in path), 0]
    for layer, (xs, height) in enumerate(zip(places, heights)):
        end = layer in (0, len(counts) - 1)
        axes.scatter(
            xs, np.full(len(xs), height), s=radius, facecolors="white", edgecolors=INK, linewidths=0.8, zorder=3,
            marker="s" if end else "o",
        )  # fmt: skip
        if chosen is not None:
            axes.scatter(
                xs[chosen[layer]], height, s=radius, color=RED, edgecolors=RED, zorder=4, marker="s" if end else "o"
            )
    if chosen is not None:
        axes.plot([xs[c] for xs, c in zip(places, chosen)], heights, color=RED, linewidth=1.6, zorder=2)
    axes.text(0.1, heights[0], "z ~ N(0, I)", va="center", fontsize=7)
    axes.text(0.1, heights[-1], "x", va="center", fontsize=7)
