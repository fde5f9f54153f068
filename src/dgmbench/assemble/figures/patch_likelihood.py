"""Likelihood of image patches against the number of mixture components, with flat lines for the references."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dgmbench.assemble.figures.base import (
    COLORS,
    FAINT,
    INK,
    LINES,
    FigureData,
    done,
    grid,
    new_figure,
    nothing_to_show,
    series_style,
    where,
)
from dgmbench.assemble.verdict import PROTOCOL_DIFFERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PUBLISHED = 6
SPLITS = ("train", "validation", "test")
# Where several rows have a curve, colour and marker tell the row, and the line the split.
SPLIT_LINES = {"test": "-", "validation": ":", "train": (0, (5, 2))}


def draw(data: FigureData, options: dict) -> "Figure":
    """Options: `x`, the grid's key along the axis (default components); `metric` (default log_likelihood)."""
    x, metric = options.get("x", "components"), options.get("metric", "log_likelihood")
    cells = data.cells[data.cells["metric"] == metric]
    obtained = done(cells)
    if obtained.empty and cells["published"].isna().all():
        return nothing_to_show(f"No row of this experiment has a '{metric}' yet.")
    figure, axes = new_figure(height=3.4)
    panel = axes[0, 0]
    curve = where(obtained, (x in parameters for parameters in obtained["parameters"]))
    curve = curve[~curve["variant"].str.contains("chosen on validation")]
    _curves(panel, curve, x)
    _flat_lines(panel, obtained[~obtained["row_name"].isin(curve["row_name"])], data)
    _published(panel, cells, data)
    unit = cells["unit"].iloc[0]
    kinds = ", ".join(dict.fromkeys(cells["kind"]))
    layered = any(isinstance(p[x], (list, tuple)) for p in curve["parameters"])
    panel.set_xlabel(f"number of {x}{', of layered models in the top layer' if layered else ''} [count]")
    panel.set_ylabel(f"mean {metric.replace('_', ' ')} [{unit}], {kinds}")
    panel.margins(y=0.08)
    grid(panel)
    handles, labels = panel.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=3)
    return figure


def _split(cell: pd.Series) -> str:
    """The split that a column is measured on, by its evaluation's name."""
    return next((split for split in SPLITS if split in cell["evaluation_name"]), "test")


def _curves(panel: "Axes", curve: pd.DataFrame, x: str) -> None:
    if curve.empty:
        panel.set_xticks([])
        return
    curve = curve.assign(x=[_size(p[x]) for p in curve["parameters"]], split=[_split(c) for _, c in curve.iterrows()])
    several = curve["row_name"].nunique() > 1
    rows = list(dict.fromkeys(curve["row_name"]))
    groups = curve.groupby(["row_name", "split"], sort=False)
    order = sorted(groups, key=lambda item: (rows.index(item[0][0]), SPLITS.index(item[0][1])))
    for index, ((name, split), cells) in enumerate(order):
        cells = cells.sort_values("x")
        se = cells["test_se"].fillna(0).to_numpy(dtype=float)
        value, places = cells["obtained"].to_numpy(dtype=float), cells["x"].to_numpy(dtype=float)
        drawn = series_style(rows.index(name) if several else index)
        label = f"{split} split"
        if several:
            drawn |= {"linestyle": SPLIT_LINES[split], "linewidth": 1.4 if split == "test" else 0.9}
            label = _base_label(cells) if split == "test" else None
        panel.plot(places, value, label=label, **drawn)
        if split == "test" and se.any() and not several:
            panel.fill_between(
                places,
                value - se,
                value + se,
                color=drawn["color"],
                alpha=0.18,
                linewidth=0,
                label="± 1 standard error (test)",
            )
    if several:
        for split in (split for split in SPLIT_LINES if split in set(curve["split"])):
            panel.plot([], [], color=FAINT, linestyle=SPLIT_LINES[split], label=f"{split} split")
    if (curve["x"] > 0).all():
        panel.set_xscale("log", base=2)
        ticks = sorted(set(curve["x"]))
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()


def _size(value: "float | list[int]") -> float:
    """A layered mixture stands at the size of its top layer, the first of its list."""
    return float(value[0] if isinstance(value, (list, tuple)) else value)


def _base_label(cells: pd.DataFrame) -> str:
    """A row's own label, without the values of its grid."""
    return str(cells["label"].iloc[0] or cells["row_name"].iloc[0])


def _flat_lines(panel: "Axes", cells: pd.DataFrame, data: FigureData) -> None:
    """Rows without the grid's key: a horizontal line at the test value, with its band."""
    flat = where(cells, (_split(cell) == "test" for _, cell in cells.iterrows()))
    flat = flat[~flat["variant"].str.contains("chosen on validation")]
    for index, (_, cell) in enumerate(flat.iterrows()):
        label = data.labels.get(cell["row"], cell["row"]) + (" (control)" if cell["control"] else "")
        panel.axhline(
            cell["obtained"], color=INK, linewidth=1.1, linestyle=LINES[(index + 2) % len(LINES)], label=label
        )
        if pd.notna(cell["test_se"]):
            low, high = cell["obtained"] - cell["test_se"], cell["obtained"] + cell["test_se"]
            panel.axhspan(low, high, color=FAINT, alpha=0.2, linewidth=0)


def _published(panel: "Axes", cells: pd.DataFrame, data: FigureData) -> None:
    """One dashed line for each published number, named above it at the left edge, where the curves are lowest.

    Where they are too many to be told apart, only those beside a number of ours: the table names the others.
    """
    known = cells[cells["published"].notna()].drop_duplicates(["published", "published_source"])
    if len(known) > MOST_PUBLISHED:
        known = known[known["obtained"].notna()]
    known = known.sort_values("published", ascending=False)
    for _, cell in known.iterrows():
        panel.axhline(cell["published"], color=COLORS[1], linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.2)
    low, high = panel.get_ylim()
    spacing, above = 0.055 * (high - low), np.inf
    for _, cell in known.iterrows():
        height = min(cell["published"], above - spacing)
        above = height
        differs = " (protocol differs)" if cell["verdict"] == PROTOCOL_DIFFERS else ""
        panel.annotate(
            f"published {cell['published']:g}{differs}: {data.labels.get(cell['row'], cell['row']).split(',')[0]}",
            (0.02, height),
            xycoords=("axes fraction", "data"),
            xytext=(0, 1.5),
            textcoords="offset points",
            ha="left",
            va="bottom",
            fontsize=7,
            color=COLORS[1],
            # Two published numbers can be closer than their names are high: a line must not strike a name through.
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
