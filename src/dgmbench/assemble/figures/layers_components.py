"""Log-likelihood against the number of components in the top layer, one line for each number of layers.

    layers = 1 where a row's grid gives one number of components, and the length of the list where it gives a list,
    whose first entry is the top layer, nearest z

Reference: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, figure 4.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import Field

from dgmbench.assemble.figures.base import (
    INK,
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
from dgmbench.data import catalogue

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, TEST = "train", "test"
PER_LINE = 2
ENLARGED = 0.5  # a panel leaves out what is so much further off: the others' share of the whole range
BARS = {"capsize": 2, "elinewidth": 0.8, "capthick": 0.8}


class Options(FigureOptions):
    x: HyperParameter = Field("components", description="The hyper-parameter along the axis, of some row's grid.")
    metric: MetricName = Field("log_likelihood", description="The metric that is shown.")


def draw(data: FigureData, options: Options) -> "Figure":
    """A panel for each dataset, or for each of its splits where both would be flat in one."""
    x, metric = options.x, options.metric
    cells = done(data.cells[data.cells["metric"] == metric])
    cells = where(cells, (x in parameters for parameters in cells["parameters"]))
    cells = cells[~cells["variant"].str.contains("chosen on validation")]
    cells = cells.assign(split=[_split(name) for name in cells["evaluation_name"]])
    cells = cells[cells["split"].notna()]
    if cells.empty:
        return nothing_to_show(f"No row with a grid over '{x}' has a '{metric}' of the train or test split yet.")
    cells = cells.assign(
        top=[float(sizes(parameters[x])[0]) for parameters in cells["parameters"]],
        layers=[len(sizes(parameters[x])) for parameters in cells["parameters"]],
    )
    shown = [(dataset, splits) for dataset in dict.fromkeys(cells["dataset"]) for splits in _together(cells, dataset)]
    columns = min(PER_LINE, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure, axes = new_figure(lines, columns, height=2.9 * lines + 0.4)
    depths = sorted(set(cells["layers"]))
    named: dict[str, Any] = {}
    for index, (panel, (dataset, splits)) in enumerate(zip(axes.flat, shown)):
        own = cells[(cells["dataset"] == dataset) & cells["split"].isin(splits)]
        _panel(panel, own, depths, named)
        title = f"{_title(dataset)}, {splits[0]} split" if len(splits) == 1 else _title(dataset)
        panel.set_title(textwrap.fill(f"{chr(ord('a') + index)}  {title}", 80 // columns))
        panel.set_xlabel(f"{x} in the top layer [count]")
        panel.set_ylabel(f"mean {metric.replace('_', ' ')} [{own['unit'].iloc[0]}], {', '.join(_kinds(own))}")
    for unused in axes.flat[len(shown) :]:
        unused.axis("off")
    order = sorted(named)  # a legend fills its columns first: one for each depth
    figure.legend(
        [named[label] for label in order],
        order,
        loc="outside lower center",
        ncols=len(depths),
        handlelength=3.4,
        title="error bars: ± 1 standard deviation over seeds" if cells["seed_sd"].notna().any() else None,
    )
    return figure


def sizes(components: int | Sequence[int]) -> tuple[int, ...]:
    """Components of each layer, top layer first: 10 -> (10,), [10, 5] -> (10, 5)."""
    return tuple(components) if isinstance(components, (list, tuple)) else (components,)


def _split(evaluation: str) -> str | None:
    """The split that a column is measured on, by its evaluation's name."""
    return next((split for split in (TRAIN, TEST) if split in evaluation), None)


def _together(cells: pd.DataFrame, dataset: str) -> list[tuple[str, ...]]:
    """The splits of each panel of a dataset: one panel, or two where both curves would be flat in one."""
    values = {
        split: cells[(cells["dataset"] == dataset) & (cells["split"] == split)]["obtained"] for split in (TEST, TRAIN)
    }
    values = {split: own for split, own in values.items() if len(own)}
    if len(values) == 2:
        low, high = sorted(values.values(), key=lambda own: own.mean())
        reach = max(own.max() - own.min() for own in values.values())
        if low.max() + max(reach, 0.01 * abs(high.mean())) < high.min():
            return [(split,) for split in values]
    return [tuple(values)]


def _title(dataset: str) -> str:
    known = catalogue.entries()
    return known[dataset].title if dataset in known else dataset


def _kinds(cells: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(cells["kind"]))


def _panel(panel: "Axes", cells: pd.DataFrame, depths: list[int], named: dict[str, Any]) -> None:
    """Marker and line tell the number of layers; a filled marker on a full-width line is the test split."""
    for split in (TRAIN, TEST):
        for index, layers in enumerate(depths):
            part = cells[(cells["layers"] == layers) & (cells["split"] == split)].sort_values("top")
            if part.empty:
                continue
            drawn = series_style(index)
            if split == TRAIN:
                drawn |= {"markerfacecolor": "white", "markeredgecolor": drawn["color"], "linewidth": 0.8}
            label = f"{layers} layer{'s' if layers > 1 else ''}, {split}"
            spread = part["seed_sd"].astype(float)
            bars = spread.fillna(0) if spread.notna().any() else None
            named[label] = panel.errorbar(part["top"], part["obtained"], yerr=bars, label=label, **drawn, **BARS)
    panel.set_xscale("log", base=2)
    ticks = sorted(set(cells["top"]))
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.margins(x=0.06, y=0.08)
    panel.tick_params(axis="x", colors=INK)
    grid(panel)
    _enlarge(panel, cells)


def _enlarge(panel: "Axes", cells: pd.DataFrame) -> None:
    """Where one component, a single Gaussian, is further off than the others lie apart, say where it is instead."""
    single, rest = cells[cells["top"] == 1], cells[cells["top"] > 1]["obtained"]
    if single.empty or rest.empty or rest.max() - rest.min() > ENLARGED * (rest.max() - single["obtained"].min()):
        return
    margin = 0.1 * (rest.max() - rest.min())
    panel.set_ylim(rest.min() - 2 * margin, rest.max() + margin)
    panel.set_xlim(cells[cells["top"] > 1]["top"].min() / 1.5)
    values = ", ".join(f"{cell['obtained']:.1f} ({cell['split']})" for _, cell in single.iterrows())
    panel.annotate(
        f"1 component: {values}",
        (0.01, 0.02),
        xycoords="axes fraction",
        fontsize=7,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )
