"""The best-path heuristic of a layered mixture: against passes, against repeats, and as training goes on.

    best path log-likelihood = (1/n) sum_i max_r log pi_p + log N(x_i; path p_r),  beside that of the full search

Reference: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, figure 2.
"""

from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import Field

from dgmbench.assemble.figures.base import (
    COLORS,
    FAINT,
    LINES,
    FigureData,
    FigureOptions,
    RowNames,
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

FOUND, FULL = "best_path_log_likelihood", "full_search_log_likelihood"
SWITCH_RATE = "switch_rate"
PANELS = (("passes", "repeats"), ("repeats", "passes"))  # the setting along the axis, and the one that is named


class Options(FigureOptions):
    rows: RowNames = Field(
        None, description="The rows to show; all that have numbers or a recorded switch rate if left out."
    )


def draw(data: FigureData, options: Options) -> "Figure":
    """The search against passes and against repeats, and the rate of switching while training."""
    cells = done(data.cells)
    histories = {
        row: kept
        for row, frames in data.histories.items()
        if (kept := [f for f in frames if SWITCH_RATE in f and f[SWITCH_RATE].notna().any()])
    }
    cells = cells[cells["metric"].isin((FOUND, FULL))]
    if options.rows is not None:
        names = data.cells.drop_duplicates("row").set_index("row")["row_name"]
        cells = cells[cells["row_name"].isin(options.rows)]
        histories = {row: frames for row, frames in histories.items() if names.get(row) in options.rows}
    if cells.empty and not histories:
        return nothing_to_show("No row of this experiment has a path search or a recorded switch rate yet.")
    figure, axes = new_figure(1, 3, height=2.7)
    rows = list(dict.fromkeys([*cells["row"], *histories]))
    styles = {row: series_style(index) for index, row in enumerate(rows)}
    named: dict[str, Any] = {}
    for panel, (setting, other) in zip(axes[0], PANELS):
        _search(panel, cells, setting, other, styles, data, named)
    _switch_rate(axes[0, 2], histories, rows, styles, data, named)
    titles = ("against passes", "against repeats", "while training")
    for letter, panel, title in zip("abc", axes[0], titles):
        panel.set_title(f"{letter}  {title}")
    if named:
        figure.legend(
            list(named.values()), list(named), loc="outside lower center", ncols=min(3, len(named)), handlelength=3
        )
    return figure


def _search(
    panel: "Axes", cells: pd.DataFrame, setting: str, other: str, styles: dict, data: FigureData, named: dict
) -> None:
    """Log-likelihood of the best path against one setting, and the full search as a flat line, for each row."""
    own = where(cells, (list(settings) == [setting] for settings in cells["settings"]))
    panel.set_xlabel(f"{setting} [count]")
    panel.set_ylabel("mean log-likelihood\nof the best path [nats]")
    found, full = own[own["metric"] == FOUND], own[own["metric"] == FULL]
    if found.empty:
        _empty(panel, f"no search over {setting} yet")
        return
    for row, part in found.groupby("row", sort=False):
        part = part.assign(x=[settings[setting] for settings in part["settings"]]).sort_values("x")
        label = f"best path found, {data.labels.get(row, row)}"
        drawn = styles[row]
        named[label] = panel.errorbar(
            part["x"], part["obtained"], yerr=part["estimator_se"].fillna(0), label=label, capsize=2, **drawn
        )
        reference = full[full["row"] == row]
        if not reference.empty:
            named[f"full search, {data.labels.get(row, row)}"] = panel.axhline(
                float(reference["obtained"].iloc[0]), color=drawn["color"], linewidth=1.1, linestyle=(0, (1, 1.4))
            )
    ticks = sorted({settings[setting] for settings in found["settings"]})
    panel.set_xticks(ticks)
    panel.margins(x=0.08, y=0.12)
    grid(panel)


def _switch_rate(panel: "Axes", histories: dict, rows: list[str], styles: dict, data: FigureData, named: dict) -> None:
    """Share of examples for which a random start found a better path, in each iteration; seeds as thin lines."""
    panel.set_xlabel("EM iteration [count]")
    panel.set_ylabel("examples that switch [%]")
    if not histories:
        _empty(panel, "no switch rate recorded yet")
        return
    for row, frames in histories.items():
        index = rows.index(row)
        for seed, frame in enumerate(frames):
            known = frame[["step", SWITCH_RATE]].dropna()
            (line,) = panel.plot(
                known["step"],
                100 * known[SWITCH_RATE],
                color=COLORS[index % len(COLORS)],
                linestyle=LINES[index % len(LINES)],
                linewidth=1.3 if seed == 0 else 0.8,
                alpha=1 if seed == 0 else 0.6,
                marker="." if len(known) < 12 else None,
            )
            if seed == 0 and f"best path found, {data.labels.get(row, row)}" not in named:
                named[f"switch rate, {data.labels.get(row, row)}"] = line
    panel.set_ylim(bottom=0)
    grid(panel)


def _empty(panel: "Axes", reason: str) -> None:
    panel.set_xticks([])
    panel.set_yticks([])
    panel.text(0.5, 0.5, reason, transform=panel.transAxes, ha="center", va="center", color=FAINT, fontsize=7)
