"""A metric against a hyper-parameter of the rows' grids, a line for each row and each combination of the others.

Published numbers of a line are level lines in its colour, and say where their protocol differs; one that is so far off
that all curves would look flat beside it is written, not drawn. Numbers that have not converged are hollow. One panel
for each kind, because kinds are never ranked together.
"""

from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from pydantic import Field

from dgmbench.assemble.figures.base import (
    HOLLOW,
    INK,
    ColumnNames,
    FigureData,
    FigureOptions,
    HyperParameter,
    MetricName,
    done,
    grid,
    hollow,
    in_columns,
    largest_uncertainty,
    new_figure,
    nothing_to_show,
    of_other_protocol,
    series_style,
    unconverged,
    where,
)
from dgmbench.grids import spell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FARTHEST = 1.5  # published numbers are drawn up to so many ranges of the obtained ones away from them


class Options(FigureOptions):
    x: HyperParameter = Field(description="The hyper-parameter along the axis, of some row's grid.")
    metric: MetricName = Field("log_likelihood", description="The metric that is shown.")
    columns: ColumnNames = Field(None, description="Columns or evaluations to show; all if left out.")
    scale: Literal["log", "linear"] = Field("log", description="The scale of the axis of the hyper-parameter.")


def draw(data: FigureData, options: Options) -> "Figure":
    """A panel for each kind, with a line for each row, combination of its other hyper-parameters, and column."""
    x, metric = options.x, options.metric
    cells = in_columns(done(data.cells[data.cells["metric"] == metric]), options.columns)
    cells = where(cells, (x in parameters for parameters in cells["parameters"]))
    if cells.empty:
        return nothing_to_show(f"No row with a grid over '{x}' has a '{metric}' yet.")
    cells = cells.assign(
        x=[float(parameters[x]) for parameters in cells["parameters"]],
        line=[_line(cell, x, cells["column"].nunique() > 1) for _, cell in cells.iterrows()],
    )
    kinds = list(dict.fromkeys(cells["kind"]))
    lines = {name: series_style(index) for index, name in enumerate(dict.fromkeys(cells["line"]))}
    figure, panels = new_figure(1, len(kinds), height=3.0)
    for panel, kind in zip(panels[0], kinds):
        own = cells[cells["kind"] == kind]
        _panel(panel, own, lines)
        panel.set_xscale(options.scale)
        ticks = sorted(set(own["x"]))
        panel.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
        panel.minorticks_off()
        panel.set_xlabel(x.replace("_", " "))
        panel.set_ylabel(f"{metric.replace('_', ' ')} [{own['unit'].iloc[0]}], {kind}")
    named = {
        label: handle for panel in panels.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    shown = [name for name in lines if name in named]
    title = "error bars: the largest of the uncertainties over test examples, estimator and seeds"
    if unconverged(cells).any():
        title = f"{title}; {HOLLOW}"
    figure.legend(
        [named[name] for name in shown], shown, loc="outside lower center", ncols=2, handlelength=3, title=title
    )
    return figure


def _line(cell: pd.Series, x: str, several_columns: bool) -> str:
    others = spell({name: value for name, value in cell["parameters"].items() if name != x})
    parts = [cell["label"], others, cell["column"] if several_columns else ""]
    return ", ".join(part for part in parts if part)


def _panel(panel: "Axes", cells: pd.DataFrame, lines: dict[str, dict[str, Any]]) -> None:
    for name, style in lines.items():
        own = cells[cells["line"] == name].sort_values("x")
        if own.empty:
            continue
        errors = [largest_uncertainty(cell) for _, cell in own.iterrows()]
        panel.errorbar(own["x"], own["obtained"], yerr=errors, capsize=2, label=name, **style)
        hollow(panel, own, "x", "obtained", style)
    low, high = cells["obtained"].min(), cells["obtained"].max()
    reach = FARTHEST * max(high - low, 1e-3 * abs(high))
    far = []
    for name, style in lines.items():
        known = cells[(cells["line"] == name) & cells["published"].notna()]
        for published, other in dict.fromkeys(zip(known["published"], of_other_protocol(known))):
            said = f"{published:g}{', protocol differs' if other else ''}"
            if not low - reach <= published <= high + reach:
                far.append(said)
                continue
            panel.axhline(published, color=style["color"], linewidth=0.8, linestyle=":")
            panel.annotate(
                f"published {said}", (1.0, published), xycoords=("axes fraction", "data"), xytext=(0, 2),
                textcoords="offset points", ha="right", fontsize=6.5, color=style["color"],
            )  # fmt: skip
    if far:
        text = f"published, beyond this panel: {'; '.join(dict.fromkeys(far))}"
        panel.annotate(text, (0.99, 0.02), xycoords="axes fraction", ha="right", fontsize=6.5, color=INK)
    grid(panel, "both")
