"""Seconds of an EM iteration against examples, components and dimensions, of ours and of the peer, and their ratio.

A panel's lines are powers of the size. Their exponents are those of the table where the experiment measures them, at
sizes of their own, by evaluations of em_scaling named after the axis; elsewhere they are fitted to the panel's points
by least squares on the logarithms. The text gives them with the standard errors of the fit, and says which.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field

from dgmbench.assemble.figures.base import (
    FAINT,
    INK,
    EstimatorName,
    FigureData,
    FigureOptions,
    done,
    grid,
    new_figure,
    nothing_to_show,
    series_style,
    thousands,
)
from dgmbench.estimators.em_scaling import fit_exponent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ESTIMATOR = "em_cost"
AXES = ("examples", "components", "dimensions")
RATIO = "speed_ratio"
PEER = "peer_seconds_per_iteration"
SCALING = "em_scaling"
EXPONENTS = {"exponent": "seconds_per_iteration", "peer_exponent": PEER}
PROGRAMS = {"seconds_per_iteration": "ours", PEER: "scikit-learn", RATIO: "ratio"}
_LEAST_SIZES = 3  # for an exponent and its standard error


class Options(FigureOptions):
    estimator: EstimatorName = Field(ESTIMATOR, description="The estimator that measured.")


def draw(data: FigureData, options: Options) -> "Figure":
    """A column of panels for each size that some evaluation's grid varies; sizes and precision are read from grids.

    An evaluation that caps the peer's examples says so in its grid (`peer_examples: [20000]`): the peer's time at more
    examples is then left out.
    """
    cells = done(data.cells)
    measured = cells[cells["estimator"] == SCALING]
    cells = cells[cells["estimator"] == options.estimator]
    curves = {axis: found for axis in AXES if not (found := _curve(cells, axis)).empty}
    if not curves:
        return nothing_to_show("No time of an EM iteration has come out at two sizes or more yet.")
    figure, panels = new_figure(2, len(curves), height=4.4, sharex="col", height_ratios=(1.7, 1))
    series = sorted({name for found in curves.values() for name in found["series"]}, key=_order)
    styles = {name: series_style(index) for index, name in enumerate(series)}
    for place, (letter, (axis, found)) in enumerate(zip("abc", curves.items())):
        above, below = panels[:, place]
        above.set_title(f"{letter}  {axis}")
        _seconds(above, found[found["metric"] != RATIO], styles, _exponents(measured, axis))
        _ratios(below, found[found["metric"] == RATIO], styles)
        below.set_xlabel(f"{axis} [count]")
        _count_ticks(below, sorted(set(found["size"])))
    panels[0, 0].set_ylabel("EM iteration [seconds]")
    panels[1, 0].set_ylabel("scikit-learn / ours [ratio]")
    handles = {
        label: handle for panel in panels.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, handlelength=3)
    return figure


def _order(series: str) -> tuple[int, str]:
    """Ours, the peer, the ratio, whatever the alphabet says."""
    return list(PROGRAMS.values()).index(series.split(",")[0]), series


def _curve(cells: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The numbers of the evaluations whose grid varies `axis`, with columns `size` and `series`, by size.

    A series is a program, a precision, and whatever else the experiment's rows and the evaluation's grid tell apart.
    """
    kept = []
    for _, part in cells[cells["metric"].isin(list(PROGRAMS))].groupby("evaluation_name", sort=False):
        grids = pd.DataFrame(list(part["settings"]), index=part.index)
        if axis not in grids or grids[axis].nunique() < 2:
            continue
        part = part.assign(size=grids[axis], capped=False)
        if "peer_examples" in grids and "examples" in grids:
            part["capped"] = grids["peer_examples"] < grids["examples"]
        fixed = [n for n in grids if n not in (axis, "precision", "peer_examples") and grids[n].nunique() > 1]
        others = [", ".join(f"{n} {grids.at[index, n]:g}" for n in fixed) for index in part.index]
        precision = grids["precision"] if "precision" in grids else pd.Series("", index=part.index)
        rows = part["label"] if part["row"].nunique() > 1 else pd.Series("", index=part.index)
        part["series"] = [
            ", ".join(word for word in (PROGRAMS[metric], *words) if word)
            for metric, *words in zip(part["metric"], precision, rows, others)
        ]
        kept.append(part)
    found = pd.concat(kept) if kept else cells.iloc[:0].assign(size=[], capped=[], series=[])
    slow = (found["metric"] == PEER) & found["capped"].astype(bool)
    return found[found["size"].notna() & ~slow].sort_values("size")


def _exponents(measured: pd.DataFrame, axis: str) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Row, metric of seconds and precision -> the table's exponent along an axis and its standard error."""
    own = measured[measured["evaluation_name"].str.contains(axis, regex=False)]
    return {
        (cell["row"], EXPONENTS[cell["metric"]], _precision(cell)): (cell["obtained"], cell["estimator_se"])
        for _, cell in own.iterrows()
        if cell["metric"] in EXPONENTS
    }


def _precision(cell: pd.Series) -> str:
    return str(cell["settings"].get("precision", ""))


def _seconds(
    panel: "Axes",
    found: pd.DataFrame,
    styles: dict[str, dict],
    measured: dict[tuple[str, str, str], tuple[float, float]],
) -> None:
    told, of_table = [], 0
    for name in sorted(set(found["series"]), key=_order):
        part = found[found["series"] == name]
        sizes, seconds = part["size"].to_numpy(dtype=float), part["obtained"].to_numpy(dtype=float)
        drawn, bars = styles[name], part["estimator_se"].fillna(0)
        panel.plot([], [], label=name, **drawn)
        if len(set(sizes)) < _LEAST_SIZES:
            panel.errorbar(sizes, seconds, yerr=bars, **drawn)
            continue
        first = part.iloc[0]
        known = measured.get((first["row"], first["metric"], _precision(first)))
        of_table += known is not None
        slope, error = known or fit_exponent(sizes, seconds)
        scale = np.exp(np.mean(np.log(seconds)) - slope * np.mean(np.log(sizes)))
        panel.errorbar(sizes, seconds, yerr=bars, **{**drawn, "linestyle": "none"})
        panel.plot(sizes, scale * sizes**slope, color=drawn["color"], linestyle=drawn["linestyle"], linewidth=1.1)
        told.append(f"{name}: {slope:.3f} ± {error:.3f}")
    panel.set_xscale("log")
    panel.set_yscale("log")
    low, high = panel.get_ylim()
    # Room above the points for one line of text for each exponent.
    panel.set_ylim(low, high * (high / low) ** (0.13 * (len(told) + 1)))
    if told:
        heading = "exponent" + (", as in the table" if of_table == len(told) else "")
        text = "\n".join([heading, *told])
        placed = {"transform": panel.transAxes, "ha": "left", "va": "top", "fontsize": 6.5, "color": INK}
        panel.text(0.03, 0.98, text, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8}, **placed)
    grid(panel, "both")


def _ratios(panel: "Axes", found: pd.DataFrame, styles: dict[str, dict]) -> None:
    for name in sorted(set(found["series"])):
        part = found[found["series"] == name]
        bars = part["estimator_se"].fillna(0)
        panel.errorbar(part["size"], part["obtained"], yerr=bars, **styles[name])
        panel.plot([], [], label=name, **styles[name])
    panel.axhline(1, color=FAINT, linewidth=0.9)
    panel.set_xscale("log")
    panel.set_ylim(bottom=0)
    grid(panel, "both")


def _count_ticks(panel: "Axes", sizes: list[float]) -> None:
    panel.set_xticks(sizes, [thousands(size) for size in sizes])
    panel.minorticks_off()
