"""Estimators against what is known exactly: AIS against enumeration, the bound against k, Parzen windows."""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from dgmbench.assemble.figures.base import (
    COLORS,
    FAINT,
    INK,
    EstimatorName,
    EstimatorNames,
    FigureData,
    FigureOptions,
    done,
    grid,
    largest_uncertainty,
    new_figure,
    nothing_to_show,
    series_style,
    where,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_LIKELIHOOD = "log_likelihood"


class Options(FigureOptions):
    ais: EstimatorName = Field("ais", description="The estimator that anneals.")
    bound: EstimatorName = Field("importance_weighted", description="The estimator of a bound against k.")
    parzen: EstimatorName = Field("parzen", description="The estimator by windows.")
    exact: EstimatorNames = Field(
        ("enumeration", "exact_likelihood"), description="The estimators of the truth, one or several."
    )

    @field_validator("exact", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def draw(data: FigureData, options: Options) -> "Figure":
    """A panel for annealing, one for the bound, one for windows."""
    cells = done(data.cells)
    if cells.empty:
        return nothing_to_show("No number of this experiment has come out yet.")
    figure, axes = new_figure(1, 3, height=2.9)
    panel_ais, panel_bound, panel_parzen = axes[0]
    _ais(panel_ais, cells[cells["estimator"] == options.ais], cells[cells["estimator"].isin(options.exact)], data)
    _bound(panel_bound, cells[cells["estimator"] == options.bound], data)
    _parzen(panel_parzen, cells[cells["estimator"] == options.parzen], data)
    for letter, panel in zip("abc", axes[0]):
        panel.set_title(f"{letter}  {panel.get_title(loc='left')}", pad=8)
    return figure


def _ais(panel: "Axes", cells: pd.DataFrame, exact: pd.DataFrame, data: FigureData) -> None:
    panel.set_title("AIS and enumeration")
    panel.set_xlabel("temperatures [count]")
    panel.set_ylabel("AIS − exact log-likelihood [nats]")
    cells, exact = cells[cells["metric"] == LOG_LIKELIHOOD], exact[exact["metric"] == LOG_LIKELIHOOD]
    truth = exact[exact["row"].isin(cells["row"])].drop_duplicates("row").set_index("row")["obtained"].to_dict()
    cells = where(cells, (row in truth and "temperatures" in s for row, s in zip(cells["row"], cells["settings"])))
    if cells.empty:
        _empty(panel, "no AIS estimate with an exact value beside it")
        return
    cells = cells.assign(
        temperatures=[s["temperatures"] for s in cells["settings"]],
        chains=[s.get("chains", 0) for s in cells["settings"]],
        error=[value - truth[row] for value, row in zip(cells["obtained"], cells["row"])],
        bar=cells["estimator_se"].fillna(0),
    )
    several = cells["row"].nunique() > 1
    series = list(cells.groupby(["row", "chains"], sort=False))
    for index, ((row, chains), part) in enumerate(series):
        part = part.sort_values("temperatures")
        # A small shift keeps error bars of the same temperatures apart.
        shift = 1.06 ** (index - (len(series) - 1) / 2)
        label = f"{chains:g} chains" if chains else data.labels.get(row, row)
        if several and chains:
            label = f"{data.labels.get(row, row)}, {label}"
        panel.errorbar(
            part["temperatures"] * shift, part["error"], yerr=part["bar"], capsize=2, label=label, **series_style(index)
        )
    panel.axhline(0, color=INK, linewidth=1, label="exact")
    panel.set_xscale("log")
    _count_ticks(panel, cells["temperatures"])
    grid(panel)
    panel.legend()


def _bound(panel: "Axes", cells: pd.DataFrame, data: FigureData) -> None:
    panel.set_title("Bound against samples")
    panel.set_xlabel("importance samples k [count]")
    panel.set_ylabel("importance-weighted bound [nats]")
    cells = cells[cells["metric"] == LOG_LIKELIHOOD]
    cells = where(cells, ("k" in settings for settings in cells["settings"]))
    if cells.empty:
        _empty(panel, "no bound has come out")
        return
    cells = cells.assign(k=[s["k"] for s in cells["settings"]])
    for index, (row, part) in enumerate(cells.groupby("row", sort=False)):
        part = part.sort_values("k")
        # The same test examples at every k: only the draws make one point's place uncertain beside the next.
        bars = part["estimator_se"].fillna(0)
        label = data.labels.get(row, row)
        panel.errorbar(part["k"], part["obtained"], yerr=bars, capsize=2, label=label, **series_style(index))
    panel.set_xscale("log")
    _count_ticks(panel, cells["k"])
    grid(panel)
    panel.legend(loc="lower right")


def _parzen(panel: "Axes", cells: pd.DataFrame, data: FigureData) -> None:
    panel.set_title("Parzen windows")
    panel.set_xlabel("log-likelihood [nats], parzen")
    cells = cells[cells["kind"] == "parzen"]
    if cells.empty:
        _empty(panel, "no Parzen window has come out")
        return
    cells = cells.drop_duplicates("row").sort_values("obtained", ascending=False)
    for place, (_, cell) in enumerate(cells.iterrows()):
        control = bool(cell["control"])
        panel.errorbar(
            cell["obtained"],
            place,
            xerr=largest_uncertainty(cell),
            marker="D" if control else "o",
            markerfacecolor="white" if control else COLORS[0],
            markeredgecolor=INK if control else COLORS[0],
            ecolor=INK if control else COLORS[0],
            linestyle="none",
            capsize=2,
        )
    names = [textwrap.fill(data.labels.get(row, row), 14) for row in cells["row"]]
    panel.set_yticks(np.arange(len(names)), names)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.margins(x=0.15)
    panel.plot([], [], "o", color=COLORS[0], label="model")
    if cells["control"].any():
        panel.plot([], [], "D", markerfacecolor="white", markeredgecolor=INK, label="control")
    grid(panel, "both")
    panel.legend(loc="lower right", handletextpad=0.2)


def _count_ticks(panel: "Axes", values: pd.Series) -> None:
    ticks = sorted(set(values))
    # Thousands as k: neighbours such as 1,000 and 5,000 would run into each other.
    panel.set_xticks(ticks, [f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}" for tick in ticks])
    panel.minorticks_off()


def _empty(panel: "Axes", reason: str) -> None:
    panel.text(0.5, 0.5, reason, transform=panel.transAxes, ha="center", va="center", color=FAINT, wrap=True)
    panel.set_xticks([])
    panel.set_yticks([])
