"""Error rate against the number of labels: one line for each row, evaluation and start.

    error rate = 100 (1/n) sum_i [argmax_y p(y given x_i) is not y_i],   in percent

Reference: Hinton, Osindero and Teh, "A fast learning algorithm for deep belief nets", Neural Computation 18, 2006.
"""

from typing import TYPE_CHECKING

from dgmbench.assemble.figures.base import (
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
    from matplotlib.figure import Figure

METRIC, AXIS = "error_rate", "labels"


class Options(FigureOptions):
    """This figure has none."""


def draw(data: FigureData, options: Options) -> "Figure":
    """A line for each row and each combination of the other settings, with the largest of the uncertainties."""
    cells = done(data.cells)
    cells = where(cells, (m == METRIC and AXIS in s for m, s in zip(cells["metric"], cells["settings"])))
    if cells.empty:
        return nothing_to_show("No row of this experiment has an error rate against its labels yet.")
    several = cells["row"].nunique() > 1
    series: dict[str, list[tuple[int, float, float]]] = {}
    for _, cell in cells.iterrows():
        rest = [f"{name}: {value}" for name, value in cell["settings"].items() if name != AXIS]
        row = [data.labels.get(cell["row"], cell["row"])] if several else []
        label = ", ".join([*row, cell["evaluation_name"], *rest])
        point = (int(cell["settings"][AXIS]), float(cell["obtained"]), largest_uncertainty(cell))
        series.setdefault(label, []).append(point)
    figure, axes = new_figure(height=3.0)
    panel = axes[0, 0]
    for index, (label, points) in enumerate(series.items()):
        labels, errors, bars = zip(*sorted(points))
        panel.errorbar(labels, errors, yerr=bars, label=label, capsize=2, **series_style(index))
    panel.set_xscale("log")
    ticks = sorted({count for points in series.values() for count, _, _ in points})
    panel.set_xticks(ticks, [f"{count:,}" for count in ticks])
    panel.set_xticks([], minor=True)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("labelled training examples [count]")
    panel.set_ylabel("test error [%], score")
    grid(panel, "both")
    figure.legend(loc="outside lower center", ncols=2, handlelength=3)
    return figure
