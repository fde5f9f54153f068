"""Likelihood of image patches against the number of mixture components, with flat lines for the references.

Layered mixtures stand at the size of their top layer; a second panel enlarges their part of the test split, names the
sizes of all their layers, and has the references of that range.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field

from dgmbench.assemble.figures.base import (
    FAINT,
    INK,
    LINES,
    FigureData,
    FigureOptions,
    HyperParameter,
    MetricName,
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
PUBLISHED = "#555555"  # no row's colour
SPLITS = ("train", "validation", "test")
BESIDE = 1.09  # the factor between layered models that have one size of the top layer
# Where several rows have a curve, colour and marker tell the row, and the line the split.
SPLIT_LINES = {"test": "-", "validation": ":", "train": (0, (5, 2))}


class Options(FigureOptions):
    x: HyperParameter = Field("components", description="The hyper-parameter along the axis, of some row's grid.")
    metric: MetricName = Field("log_likelihood", description="The metric that is shown.")


def draw(data: FigureData, options: Options) -> "Figure":
    """Rows with a grid as curves, others as flat lines, published numbers beside them; below, layered models alone."""
    x, metric = options.x, options.metric
    cells = data.cells[data.cells["metric"] == metric]
    obtained = done(cells)
    if obtained.empty and cells["published"].isna().all():
        return nothing_to_show(f"No row of this experiment has a '{metric}' yet.")
    curve = where(obtained, (x in parameters for parameters in obtained["parameters"]))
    curve = _placed(curve[~curve["variant"].str.contains("chosen on validation")], x)
    layered = curve[(curve["sizes"] != "") & (curve["split"] == "test")]
    few = len(cells[cells["published"].notna()].drop_duplicates(["published", "published_source"])) <= MOST_PUBLISHED
    figure, axes = new_figure(1 if layered.empty else 2, 1, height=3.4 if layered.empty else 6.4)
    panel = axes[0, 0]
    _curves(panel, curve)
    flat = _flat(obtained[~obtained["row_name"].isin(curve["row_name"])])
    if layered.empty:
        _flat_lines(panel, flat, data)
        _published(panel, cells, data, few)
    else:
        least = layered["obtained"].min()
        panel.set_title("a  All splits")
        _flat_lines(panel, flat[flat["obtained"] < least], data)
        _published(panel, cells[cells["published"] < least], data, few, right=True)
        _flat_lines(axes[1, 0], flat[flat["obtained"] >= least], data, bands=False)
        _enlarged(axes[1, 0], curve[curve["split"] == "test"], layered, cells, data, few)
    unit = cells["unit"].iloc[0]
    kinds = ", ".join(dict.fromkeys(cells["kind"]))
    for drawn in axes[:, 0]:
        top = "" if layered.empty else ", of layered models in the top layer"
        drawn.set_xlabel(f"number of {x}{top} [count]")
        drawn.set_ylabel(f"mean {metric.replace('_', ' ')} [{unit}], {kinds}")
        grid(drawn)
    panel.margins(y=0.08)
    named = {
        label: handle for drawn in axes[:, 0] for handle, label in zip(*drawn.get_legend_handles_labels(), strict=True)
    }
    if named:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2, handlelength=3)
    return figure


def _split(cell: pd.Series) -> str:
    """The split that a column is measured on, by its evaluation's name."""
    return next((split for split in SPLITS if split in cell["evaluation_name"]), "test")


def _placed(curve: pd.DataFrame, x: str) -> pd.DataFrame:
    """The cells with their split, the sizes of a layered model (40-5-20; empty for others), and their `place`: the size
    of the top layer, the first of the list. Layered models of one top layer stand beside each other around it."""
    values = [p[x] for p in curve["parameters"]]
    tops = [float(v[0] if isinstance(v, (list, tuple)) else v) for v in values]
    sizes = ["-".join(map(str, v)) if isinstance(v, (list, tuple)) else "" for v in values]
    curve = curve.assign(split=[_split(c) for _, c in curve.iterrows()], top=tops, sizes=sizes)
    models = {(top, c["row"]): None for (_, c), top in zip(curve.iterrows(), tops) if c["sizes"]}
    sharing = {top: [row for other, row in models if other == top] for top in tops}
    shift = {
        (top, row): BESIDE ** (rows.index(row) - (len(rows) - 1) / 2) for top, rows in sharing.items() for row in rows
    }
    return curve.assign(place=[top * shift.get((top, row), 1.0) for top, row in zip(tops, curve["row"])])


def _curves(panel: "Axes", curve: pd.DataFrame) -> None:
    if curve.empty:
        panel.set_xticks([])
        return
    several = curve["row_name"].nunique() > 1
    rows = list(dict.fromkeys(curve["row_name"]))
    groups = curve.groupby(["row_name", "split"], sort=False)
    order = sorted(groups, key=lambda item: (rows.index(item[0][0]), SPLITS.index(item[0][1])))
    for index, ((name, split), cells) in enumerate(order):
        cells = cells.sort_values("place")
        se = cells["test_se"].fillna(0).to_numpy(dtype=float)
        value, places = cells["obtained"].to_numpy(dtype=float), cells["place"].to_numpy(dtype=float)
        drawn = series_style(rows.index(name) if several else index)
        label = f"{split} split"
        if several:
            drawn |= {"linestyle": SPLIT_LINES[split], "linewidth": 1.4 if split == "test" else 0.9}
            if split != "test" and len(cells) > 1:  # a line is enough for what only stands beside the test split
                drawn["marker"] = None
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
    if (curve["top"] > 0).all():
        panel.set_xscale("log", base=2)
        ticks = sorted(set(curve["top"]))
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()


def _enlarged(
    panel: "Axes", curve: pd.DataFrame, layered: pd.DataFrame, cells: pd.DataFrame, data: FigureData, few: bool
) -> None:
    """The test split where the layered models are, each with the sizes of its layers, and the published numbers."""
    _curves(panel, curve)
    low, high = layered["obtained"].min(), max(layered["obtained"].max(), curve["obtained"].max())
    published = cells["published"][(cells["published"] > low) & cells["published"].notna()]
    high = max([high, *published])
    panel.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
    panel.set_xlim(layered["place"].min() / 2, None)
    for _, cell in layered.iterrows():
        panel.annotate(
            cell["sizes"],
            (cell["place"], cell["obtained"]),
            xytext=(0, -5),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=6.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        )
    _published(panel, cells[~(cells["published"] < low)], data, few)
    panel.set_title("b  Test split, enlarged; layered models with the sizes of their layers, the top one first")


def _base_label(cells: pd.DataFrame) -> str:
    """A row's own label, without the values of its grid."""
    return str(cells["label"].iloc[0] or cells["row_name"].iloc[0])


def _flat(cells: pd.DataFrame) -> pd.DataFrame:
    """Rows without the grid's key, on the test split, each with its line's style."""
    flat = where(cells, (_split(cell) == "test" for _, cell in cells.iterrows()))
    flat = flat[~flat["variant"].str.contains("chosen on validation")]
    return flat.assign(line=[(index + 2) % len(LINES) for index in range(len(flat))])


def _flat_lines(panel: "Axes", flat: pd.DataFrame, data: FigureData, bands: bool = True) -> None:
    """A horizontal line at the value of each row, with its band of one standard error."""
    for _, cell in flat.iterrows():
        label = data.labels.get(cell["row"], cell["row"]) + (" (control)" if cell["control"] else "")
        panel.axhline(cell["obtained"], color=INK, linewidth=1.1, linestyle=LINES[cell["line"]], label=label)
        if bands and pd.notna(cell["test_se"]):
            low, high = cell["obtained"] - cell["test_se"], cell["obtained"] + cell["test_se"]
            panel.axhspan(low, high, color=FAINT, alpha=0.2, linewidth=0)


def _ticks(panel: "Axes", cells: pd.DataFrame, data: FigureData) -> None:
    """A named tick at the right edge for each published number."""
    cells = cells.sort_values("published", ascending=False)
    low, high = panel.get_ylim()
    above = np.inf
    for _, cell in cells[cells["published"].between(low, high)].iterrows():
        height = above = min(cell["published"], above - 0.04 * (high - low))
        panel.annotate(
            f"{cell['published']:g} {data.labels.get(cell['row'], cell['row'])}",
            (1.0, cell["published"]),
            xycoords=("axes fraction", "data"),
            xytext=(1.03, height),
            textcoords=("axes fraction", "data"),
            ha="left",
            va="center",
            fontsize=6,
            color=PUBLISHED,
            arrowprops={"arrowstyle": "-", "color": PUBLISHED, "linewidth": 0.6},
            annotation_clip=False,
        )


def _published(panel: "Axes", cells: pd.DataFrame, data: FigureData, few: bool, right: bool = False) -> None:
    """One dashed line for each published number, named above it at the left edge, where the curves are lowest; or at
    the right edge, for numbers below the curves there.

    Where they are too many to be told apart (`few` is not set), those beside none of ours are ticks at the right edge,
    outside.
    """
    known = cells[cells["published"].notna()].drop_duplicates(["published", "published_source"])
    if not few:
        _ticks(panel, known[known["obtained"].isna()], data)
        known = known[known["obtained"].notna()]
    known = known.sort_values("published", ascending=False)
    for _, cell in known.iterrows():
        panel.axhline(cell["published"], color=PUBLISHED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.2)
    low, high = panel.get_ylim()
    spacing, above = 0.055 * (high - low), np.inf
    for _, cell in known.iterrows():
        height = min(cell["published"], above - spacing)
        above = height
        differs = " (protocol differs)" if cell["verdict"] == PROTOCOL_DIFFERS else ""
        panel.annotate(
            f"published {cell['published']:g}{differs}: {data.labels.get(cell['row'], cell['row']).split(',')[0]}",
            (0.99 if right else 0.02, height),
            xycoords=("axes fraction", "data"),
            xytext=(0, 1.5),
            textcoords="offset points",
            ha="right" if right else "left",
            va="bottom",
            fontsize=7,
            color=PUBLISHED,
            # Two published numbers can be closer than their names are high: a line must not strike a name through.
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
