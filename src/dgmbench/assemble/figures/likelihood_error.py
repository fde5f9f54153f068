"""Estimates of log p(x) against the truth: error and Monte Carlo error over the work that they took.

error = estimate - truth, both means over the same test examples of the same run
"""

import textwrap
from typing import TYPE_CHECKING, Annotated

import pandas as pd
from pydantic import Field

from dgmbench.assemble.figures.base import (
    HOLLOW,
    INK,
    EvaluationName,
    FigureData,
    FigureOptions,
    NameOf,
    done,
    grid,
    hollow,
    new_figure,
    nothing_to_show,
    series_style,
    unconverged,
    where,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC = "log_likelihood"
_WIDTH = 40  # characters of an axis label under one of two panels
ROUNDING = 1e-9  # nats: draws that all give the truth differ by no more


class Options(FigureOptions):
    truth: EvaluationName = Field(description="The evaluation that the others are held against.")
    work: Annotated[dict[str, tuple[str, float]], NameOf("evaluation", grid=True)] = Field(
        description="Evaluation -> [setting of its grid, decoder passes for each unit of it]."
    )
    passes: str = Field("decoder passes for each example [count]", description="What the horizontal axis is called.")


def draw(data: FigureData, options: Options) -> "Figure":
    """Errors on the left, Monte Carlo errors on the right, a line for each evaluation that has work."""
    work, truth_name = options.work, options.truth
    cells = done(data.cells)
    cells = cells[cells["metric"] == METRIC]
    truth = cells[cells["evaluation_name"] == truth_name].drop_duplicates("row").set_index("row")["obtained"].to_dict()
    cells = where(
        cells,
        (
            row in truth and name in work and work[name][0] in settings
            for row, name, settings in zip(cells["row"], cells["evaluation_name"], cells["settings"])
        ),
    )
    if cells.empty:
        return nothing_to_show("No estimate with a truth beside it has come out yet.")
    cells = cells.assign(
        passes=[
            settings[work[name][0]] * work[name][1]
            for name, settings in zip(cells["evaluation_name"], cells["settings"])
        ],
        error=[value - truth[row] for value, row in zip(cells["obtained"], cells["row"])],
        bar=cells["estimator_se"].fillna(0),
    )
    return _panels(cells, data, options.passes)


def _panels(cells: pd.DataFrame, data: FigureData, label: str) -> "Figure":
    lines = cells.groupby(["row", "evaluation_name"], sort=False)
    several = cells["row"].nunique() > 1
    under = textwrap.wrap(label, _WIDTH)
    # Room for what stands below the panels: the axis's lines, and the legend's in two columns.
    height = 3.1 + 0.15 * len(under) + (0.16 * ((lines.ngroups + 2) // 2) if several else 0.0)
    figure, axes = new_figure(1, 2, height=height)
    errors, spreads = axes[0]
    for index, ((row, name), part) in enumerate(lines):
        part, style = part.sort_values("passes"), series_style(index)
        legend = f"{data.labels.get(row, row)}, {name}" if several else name
        errors.errorbar(part["passes"], part["error"], yerr=part["bar"], capsize=2, label=legend, **style)
        hollow(errors, part, "passes", "error", style)
        known = part[part["bar"] > ROUNDING]
        if not known.empty:
            spreads.plot(known["passes"], known["bar"], **style)
    errors.axhline(0, color=INK, linewidth=1, label="truth")
    errors.set_title("a  Error")
    errors.set_ylabel("estimate − truth [nats]")
    errors.set_yscale("symlog", linthresh=0.1)
    errors.margins(y=0.1)
    spreads.set_title("b  Monte Carlo error")
    spreads.set_ylabel("standard error of the draws [nats]")
    if spreads.lines:
        spreads.set_yscale("log")
    else:  # a logarithmic axis needs something above zero
        spreads.axis("off")
        spreads.text(0.5, 0.5, "no draw differs from another", ha="center", va="center", color=INK)
    for panel in axes[0]:
        panel.set_xscale("log")
        panel.set_xlabel("\n".join(under))
        grid(panel, "both")
    title = HOLLOW if unconverged(cells).any() else None
    figure.legend(loc="outside lower center", ncols=2 if several else 4, title=title)
    return figure
