"""Seconds of an epoch (ours and the peer's), a sweep, a temperature, an exact log Z; shares of the machine's rate."""

from typing import TYPE_CHECKING

import pandas as pd

from dgmbench.assemble.figures.base import (
    FigureData,
    FigureOptions,
    done,
    grid,
    new_figure,
    nothing_to_show,
    series_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ESTIMATOR = "boltzmann_cost"
SECONDS = {
    "peer_seconds_per_epoch": "epoch, scikit-learn",
    "seconds_per_epoch": "epoch",
    "seconds_per_sweep": "sweep of all chains",
    "seconds_per_temperature": "temperature, all chains",
    "seconds_of_enumeration": "exact log Z",
}
SHARES = {
    "epoch_rate_share": "epoch",
    "gibbs_rate_share": "sweep of all chains",
    "ais_rate_share": "temperature, all chains",
}


class Options(FigureOptions):
    """This figure has none."""


def draw(data: FigureData, options: Options) -> "Figure":
    """Two panels of dots with the standard errors of the readings; a series for each row and column."""
    cells = done(data.cells)
    cells = cells[(cells["estimator"] == ESTIMATOR) & cells["metric"].isin([*SECONDS, *SHARES])]
    if cells.empty:
        return nothing_to_show("No time of a Boltzmann machine has come out yet.")
    figure, panels = new_figure(1, 2, height=2.3)
    series = cells["label"].astype(str) + ", " + cells["column"].astype(str)
    for index, name in enumerate(dict.fromkeys(series)):
        drawn = {**series_style(index), "linestyle": "none", "label": name}
        _dots(panels[0, 0], cells[series == name], SECONDS, drawn)
        _dots(panels[0, 1], cells[series == name], SHARES, drawn)
    panels[0, 0].set_xscale("log")
    panels[0, 0].set_xlabel("median time [seconds]")
    panels[0, 1].set_xlim(0, 1)
    panels[0, 1].set_xlabel("operations of its products a second,\nover those of a large product [ratio]")
    for letter, panel in zip("ab", panels[0]):
        panel.set_title(letter)
    if series.nunique() > 1:
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _dots(panel: "Axes", cells: pd.DataFrame, names: dict[str, str], drawn: dict) -> None:
    heights = {metric: len(names) - 1 - place for place, metric in enumerate(names)}
    shown = cells[cells["metric"].isin(list(names))]
    panel.errorbar(
        shown["obtained"], shown["metric"].map(heights), xerr=shown["estimator_se"].fillna(0), capsize=2, **drawn
    )
    panel.set_yticks(list(heights.values()), list(names.values()))
    panel.set_ylim(-0.5, len(names) - 0.5)
    grid(panel, "x")
