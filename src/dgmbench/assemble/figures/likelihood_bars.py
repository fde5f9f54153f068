"""Obtained against published for every row: dots with error bars, hollow where not converged; a panel for each kind.

Beside log-likelihoods stand those bounds on them that were published.
"""

import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field

from dgmbench.assemble.figures.base import (
    COLORS,
    FAINT,
    INK,
    MARKERS,
    ColumnNames,
    FigureData,
    FigureOptions,
    MetricName,
    grid,
    in_columns,
    largest_uncertainty,
    new_figure,
    nothing_to_show,
    of_other_protocol,
    unconverged,
)
from dgmbench.assemble.published import is_unverified

_HALF = 36  # characters of a label under one of two panels
LIKELIHOOD, BOUND = "log_likelihood", "bound"
PUBLISHED = {
    "marker": "D",
    "markersize": 5,
    "markerfacecolor": "white",
    "markeredgecolor": COLORS[1],
    "ecolor": COLORS[1],
    "linestyle": "none",
    "capsize": 2,
}
NOT_VERIFIED = {**PUBLISHED, "marker": "d", "markersize": 4, "markeredgecolor": INK, "ecolor": INK}
OTHER_PROTOCOL = {**PUBLISHED, "marker": "x", "markeredgecolor": FAINT, "ecolor": FAINT}

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Options(FigureOptions):
    metric: MetricName = Field("log_likelihood", description="The metric that is shown.")
    columns: ColumnNames = Field(None, description="Columns or evaluations to show; all if left out.")
    closer: float | None = Field(
        None, gt=0, description="Beside each panel another shows what lies within so many units of its largest number."
    )


def draw(data: FigureData, options: Options) -> "Figure":
    """A panel for each kind, with a line of dots for each row and column, and a closer look where one is asked for."""
    metric, wanted = options.metric, options.columns
    cells = in_columns(_of_metric(data.cells, metric), wanted)
    cells = cells[cells["obtained"].notna() | cells["published"].notna()]
    if cells.empty:
        return nothing_to_show(f"No row of this experiment has a '{metric}' yet.")
    kinds = list(dict.fromkeys(cells["kind"]))
    counts = [max(len(cells[cells["kind"] == kind]), 1) for kind in kinds]
    heights = [count + 2.5 for count in counts]
    height, shape = 0.24 * sum(heights) + 0.5, {"gridspec_kw": {"height_ratios": heights}, "sharey": "row"}
    figure, axes = new_figure(len(kinds), 1 if options.closer is None else 2, height=height, **shape)
    for panels, kind in zip(axes, kinds):
        own = cells[cells["kind"] == kind]
        for panel in panels:
            _panel(panel, own, kind, metric, data)
        if options.closer is not None:
            panels[0].set_xlabel(textwrap.fill(panels[0].get_xlabel(), _HALF))
            _come_closer(panels[1], own, options.closer)
    figure.supxlabel("bars: the largest of the uncertainties over test examples, estimator and seeds", fontsize=7)
    figure.legend(handles=_legend(cells), loc="outside upper right", ncols=4)
    return figure


def _come_closer(axes: "Axes", cells: pd.DataFrame, units: float) -> None:
    best = float(np.nanmax(cells[["obtained", "published"]].astype(float)))
    axes.set_xlim(best - units, best + 0.08 * units)
    axes.set_title("closer")
    axes.set_xlabel("")  # the axis is that of the panel beside it


def _of_metric(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    bounds = (cells["metric"] == BOUND) & cells["published"].notna()
    return cells[(cells["metric"] == metric) | (bounds if metric == LIKELIHOOD else False)]


def _legend(cells: pd.DataFrame) -> "list[Artist]":
    from matplotlib.lines import Line2D

    known, differs = cells["published"].notna(), of_other_protocol(cells)
    unverified = cells["published_protocol"].map(is_unverified)
    obtained = {"color": COLORS[0], "linestyle": "none", "marker": MARKERS[0]}
    moving = {**obtained, "markerfacecolor": "white"}
    control = {**obtained, "markerfacecolor": FAINT, "markeredgecolor": INK}
    ours = cells["obtained"].notna() & ~cells["control"]
    entries = [
        ("obtained", obtained, ours & ~unconverged(cells)),
        ("obtained, not converged", moving, ours & unconverged(cells)),
        ("obtained, control", control, cells["obtained"].notna() & cells["control"]),
        ("published", PUBLISHED, known & ~differs & ~unverified),
        ("published, unverified", NOT_VERIFIED, known & ~differs & unverified),
        ("published, protocol differs", OTHER_PROTOCOL, known & differs),
    ]
    drawn = ("ecolor", "capsize")
    return [
        Line2D([], [], label=label, **{k: v for k, v in style.items() if k not in drawn})
        for label, style, shown in entries
        if shown.any()
    ]


def _panel(axes: "Axes", cells: pd.DataFrame, kind: str, metric: str, data: FigureData) -> None:
    unit = cells["unit"].iloc[0]
    several = cells["column"].nunique() > 1
    names = []
    rows = zip(cells.iterrows(), of_other_protocol(cells), unconverged(cells))
    for place, ((_, cell), differs, moving) in enumerate(rows):
        label = data.labels.get(cell["row"], cell["row"])
        told = [label, cell["column"] if several else "", cell["metric"] if cell["metric"] != metric else ""]
        names.append(" · ".join(part for part in told if part))
        if pd.notna(cell["published"]):
            spread = cell["published_spread"] if pd.notna(cell["published_spread"]) else None
            unverified = is_unverified(cell["published_protocol"])
            drawn = OTHER_PROTOCOL if differs else NOT_VERIFIED if unverified else PUBLISHED
            axes.errorbar(cell["published"], place, xerr=spread, **drawn)
        if pd.notna(cell["obtained"]):
            axes.errorbar(
                cell["obtained"],
                place,
                xerr=largest_uncertainty(cell),
                marker=MARKERS[0],
                markersize=5,
                markerfacecolor="white" if moving else FAINT if cell["control"] else COLORS[0],
                markeredgecolor=INK if cell["control"] else COLORS[0],
                ecolor=COLORS[0],
                linestyle="none",
                capsize=2,
            )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_title(kind)
    either = " or bound on it" if (cells["metric"] != metric).any() else ""
    axes.set_xlabel(f"{metric.replace('_', ' ')}{either} [{unit}], {kind}")
    axes.margins(x=0.08)
    grid(axes, "both")
