"""Milliseconds of a training step of every row, its sampler's share of it, and shares of the machine's rate.

a: a bar for each row, up to its sampler's part hatched
b: the shares of the rate of products that a step and the many-sample evaluation reach
c: of the rows that have it, how many times faster seeds are trained at once than one after the other
"""

from typing import TYPE_CHECKING

import pandas as pd

from dgmbench.assemble.figures.base import (
    COLORS,
    INK,
    MARKERS,
    FigureData,
    FigureOptions,
    done,
    grid,
    new_figure,
    nothing_to_show,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ESTIMATOR, TOGETHER = "discrete_vae_cost", "seeds_together_cost"
STEP, SAMPLER = "milliseconds_per_step", "sampler_share"
SPEEDUP = "together_speedup"
SHARES = {"step_rate_share": "training step", "evaluation_rate_share": "evaluation"}


class Options(FigureOptions):
    """This figure has none."""


def draw(data: FigureData, options: Options) -> "Figure":
    """Rows from top to bottom as in the table."""
    cells = done(data.cells)
    together = cells[(cells["estimator"] == TOGETHER) & (cells["metric"] == SPEEDUP)]
    cells = cells[cells["estimator"] == ESTIMATOR]
    rows = list(dict.fromkeys(cells[cells["metric"] == STEP]["row"]))
    if not rows:
        return nothing_to_show("No time of a discrete variational autoencoder has come out yet.")
    heights = {row: len(rows) - 1 - place for place, row in enumerate(rows)}
    together = together[together["row"].isin(rows)]
    figure, panels = new_figure(1, 2 if together.empty else 3, height=1.1 + 0.2 * len(rows), sharey=True)
    times, shares = panels[0, :2]
    _bars(times, cells, heights)
    for index, (metric, name) in enumerate(SHARES.items()):
        own = cells[cells["metric"] == metric]
        drawn = {"color": COLORS[index], "marker": MARKERS[index], "linestyle": "none", "label": name}
        shares.errorbar(own["obtained"], own["row"].map(heights), xerr=_errors(own), capsize=2, **drawn)
    times.set_yticks(list(heights.values()), [data.labels.get(row, row) for row in rows])
    times.set_ylim(-0.6, len(rows) - 0.4)
    times.set_xlabel("a step, median\n[milliseconds]")
    shares.set_xlim(0, 1)
    shares.set_xlabel("share of a large\nproduct's rate\n[ratio]")
    if not together.empty:
        _speedups(panels[0, 2], together, heights)
    for letter, panel in zip("abc", panels[0]):
        panel.set_title(letter)
        grid(panel, "x")
    handles = [entry for panel in panels[0] for entry in zip(*panel.get_legend_handles_labels())]
    figure.legend(*zip(*handles), loc="outside lower center", ncols=4)
    return figure


def _bars(panel, cells: pd.DataFrame, heights: dict[str, int]) -> None:
    steps = cells[cells["metric"] == STEP].set_index("row")
    shares = cells[cells["metric"] == SAMPLER].set_index("row")["obtained"]
    places = [heights[row] for row in steps.index]
    panel.barh(places, steps["obtained"], 0.6, color=COLORS[4], label="rest of the step", xerr=_errors(steps))
    sampler = steps["obtained"] * shares.reindex(steps.index).fillna(0)
    look = {"color": "white", "edgecolor": INK, "hatch": "////", "linewidth": 0.6}
    panel.barh(places, sampler, 0.6, label="of it, the prior's chains", **look)


def _speedups(panel, cells: pd.DataFrame, heights: dict[str, int]) -> None:
    drawn = {"color": INK, "marker": MARKERS[2], "linestyle": "none"}
    panel.errorbar(cells["obtained"], cells["row"].map(heights), xerr=_errors(cells), capsize=2, **drawn)
    panel.axvline(1.0, color=INK, linewidth=0.8)
    panel.set_xlim(0, 1.1 * max(1.0, (cells["obtained"] + _errors(cells)).max()))  # room for the largest marker
    panel.set_xlabel("seeds apart\nover at once\n[ratio]")


def _errors(cells: pd.DataFrame) -> pd.Series:
    return cells["estimator_se"].astype(float).fillna(0)
