"""Estimators of log Z against enumeration: bias, error and coverage against the number of transitions.

    transitions = chains x temperatures x transitions at each,   twice that for the bracket

A column for each machine; above the bias (linear within 0.01 nats, logarithmic beyond), in the middle the root mean
square error, below the coverage of 95 % intervals. Bars are standard errors over the repetitions.
"""

from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import Field

from dgmbench.assemble.figures.base import (
    INK,
    FigureData,
    FigureOptions,
    done,
    grid,
    new_figure,
    nothing_to_show,
    series_style,
    where,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "ais": "AIS",
    "reverse_ais": "reverse AIS",
    "bracket": "bracket",
    "population_annealing": "population annealing",
}
QUANTITIES = {
    "bias": "estimate − log Z,\nmean [nats]",
    "rmse": "root mean square\nerror [nats]",
    "coverage": "95 % intervals that\nhold log Z [%]",
}
NOMINAL = 95  # %
LINEAR_BELOW = 0.01  # nats
MOST_MACHINES = 4


class Options(FigureOptions):
    chains: int = Field(20, ge=1, description="Chains of an evaluation whose grid does not name them.")
    transitions: int = Field(
        1, ge=1, description="Transitions at each temperature of an evaluation whose grid does not name them."
    )


def draw(data: FigureData, options: Options) -> "Figure":
    """A column of panels for each machine: bias, root mean square error, coverage."""
    points = _points(done(data.cells), options)
    if points.empty:
        return nothing_to_show("No repetition of an estimator of log Z has come out yet.")
    rows = list(dict.fromkeys(points["row"]))[:MOST_MACHINES]
    chains = sorted(set(points["chains"]))
    figure, axes = new_figure(len(QUANTITIES), len(rows), height=5.3, sharex="col", sharey="row")
    handles: dict[str, Any] = {}
    for column, row in enumerate(rows):
        axes[0, column].set_title(f"{'abcd'[column]}  {data.labels.get(row, row)}")
        axes[-1, column].set_xlabel("transitions [count]")
        for panel, quantity in zip(axes[:, column], QUANTITIES):
            chosen = points[(points["row"] == row) & (points["quantity"] == quantity)]
            handles |= _panel(panel, chosen, quantity, chains)
    for panel, label in zip(axes[:, 0], QUANTITIES.values()):
        panel.set_ylabel(label)
    if len(chains) > 1:
        for count in chains:
            (handles[f"{count:g} chains"],) = axes[0, 0].plot([], [], "o", color=INK, **_marker(count, chains))
    figure.align_ylabels(axes[:, 0])
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=5, handlelength=3)
    return figure


def _points(cells: pd.DataFrame, options: Options) -> pd.DataFrame:
    """One row for each number of a method: its method, quantity, chains and transitions; fewest transitions first."""
    names = {f"{method}_{quantity}": (method, quantity) for method in NAMES for quantity in QUANTITIES}
    kept = []
    for _, cell in where(cells, (metric in names for metric in cells["metric"])).iterrows():
        method, quantity = names[cell["metric"]]
        settings = {**options.model_dump(), **cell["settings"]}
        if "temperatures" not in settings:
            continue
        work = settings["chains"] * settings["temperatures"] * settings["transitions"]
        kept.append(
            {
                "row": cell["row"],
                "method": method,
                "quantity": quantity,
                "chains": settings["chains"],
                "transitions": 2 * work if method == "bracket" else work,
                "obtained": cell["obtained"],
                "se": 0.0 if pd.isna(cell["estimator_se"]) else cell["estimator_se"],
            }
        )
    columns = ["row", "method", "quantity", "chains", "transitions", "obtained", "se"]
    return pd.DataFrame(kept, columns=columns)


def _panel(panel: "Axes", points: pd.DataFrame, quantity: str, chains: list[int]) -> dict[str, Any]:
    """Draw one quantity of one machine; name -> what stands for it in the legend."""
    handles: dict[str, Any] = {}
    scale = 100 if quantity == "coverage" else 1
    for index, (method, name) in enumerate(NAMES.items()):
        for count, part in points[points["method"] == method].groupby("chains"):
            part = part.sort_values("transitions")
            look = series_style(index) | _marker(count, chains)
            handle = panel.errorbar(
                part["transitions"], scale * part["obtained"], yerr=scale * part["se"], capsize=1.5, **look
            )
            handles.setdefault(name, handle)
    panel.set_xscale("log")
    panel.tick_params(axis="x", which="minor", labelbottom=False)  # within a decade they would run into each other
    if quantity == "bias":
        panel.set_yscale("symlog", linthresh=LINEAR_BELOW)
        handles["exact"] = panel.axhline(0, color=INK, linewidth=1)
    elif quantity == "rmse":
        panel.set_yscale("log")
    else:
        panel.axhline(NOMINAL, color=INK, linewidth=1)
    grid(panel)
    return handles


def _marker(count: int, chains: list[int]) -> dict[str, Any]:
    """Filled for the fewest chains, open for more."""
    return {} if count == chains[0] else {"markerfacecolor": "white", "markeredgecolor": None}
