"""Smoothings of a binary unit: inverse distribution functions, their gradients, and what sharpness costs.

    above: zeta(rho), below: d zeta / d q at the same noise rho, a line for each beta
    last: standard deviation of d zeta / d q over rho, against E|zeta - z|; a mark for each beta

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, figure 1.
"""

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from dgmbench.assemble.figures.base import (
    COLORS,
    FAINT,
    LINES,
    WIDTH,
    FigureData,
    FigureOptions,
    grid,
    nothing_to_show,
    series_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ESTIMATOR = "smoothing_curves"
PER_LINE = 3
_LEAST = 1e-2  # gradients below are not drawn: they carry nothing


class Options(FigureOptions):
    """This figure has none."""

    arrays_of = (ESTIMATOR,)


def draw(data: FigureData, options: Options) -> "Figure":
    """Two panels for each row, and one for all."""
    from matplotlib.figure import Figure

    found, missing = data.arrays.get(ESTIMATOR, {}), data.missing_arrays.get(ESTIMATOR, {})
    rows = [row for row in dict.fromkeys(data.cells["row"]) if row in found or row in missing]
    if not found:
        reasons = list(dict.fromkeys(missing.values())) or [f"No row is evaluated by '{ESTIMATOR}'."]
        return nothing_to_show("\n".join(["No curve is here yet.", *reasons[:3]]))
    columns = min(PER_LINE, len(rows))
    lines = math.ceil(len(rows) / columns)
    heights = [1.35, 1.25] * lines + [2.2]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
    places = figure.add_gridspec(2 * lines + 1, columns, height_ratios=heights)
    top = 2 * max(float(arrays["gradient"].max()) for arrays in found.values())
    for index, row in enumerate(rows):
        line, column = divmod(index, columns)
        above, below = (figure.add_subplot(places[2 * line + part, column]) for part in (0, 1))
        label = textwrap.fill(data.labels.get(row, row), 30)
        above.set_title(f"{_letter(index)}  {label}")
        if row not in found:
            for panel in (above, below):
                panel.axis("off")
            above.text(0.5, 0.5, textwrap.fill(missing[row], 30), ha="center", va="center", color=FAINT, fontsize=7)
            continue
        _curves(above, below, found[row], top)
        if column == 0:
            above.set_ylabel("ζ [no unit]")
            below.set_ylabel("∂ζ/∂q [no unit]")
    last = figure.add_subplot(places[2 * lines, :])
    last.set_title(f"{_letter(len(rows))}  what sharpness costs (the number at a line's end is its largest β)")
    _trade(last, rows, found, data)
    handles, names = last.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)), handlelength=3.5)
    return figure


def _letter(index: int) -> str:
    return chr(ord("a") + index % 26)


def _curves(above: "Axes", below: "Axes", arrays: dict[str, np.ndarray], top: float) -> None:
    for index, (beta, zeta, gradient) in enumerate(zip(arrays["betas"], arrays["zeta"], arrays["gradient"])):
        look = {"color": COLORS[index % len(COLORS)], "linestyle": LINES[index % len(LINES)], "linewidth": 1.2}
        above.plot(arrays["rho"], zeta, label=f"β = {beta:g}", **look)
        below.plot(arrays["rho"], np.where(gradient >= _LEAST, gradient, np.nan), **look)
    above.legend(loc="upper left", handlelength=2.2, labelspacing=0.15, borderaxespad=0.1, fontsize=6.5)
    above.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=[])
    above.set_yticks([0, 0.5, 1])
    below.set(xlim=(0, 1), xticks=[0, 0.5, 1], yscale="log", ylim=(_LEAST, top), xlabel="noise ρ [no unit]")
    for panel in (above, below):
        grid(panel)


def _trade(panel: "Axes", rows: list[str], found: dict[str, dict[str, np.ndarray]], data: FigureData) -> None:
    """A curve for each family: to the left nearer to binary, upwards noisier."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    for index, row in enumerate(rows):
        if row not in found:
            continue
        arrays, name = found[row], data.labels.get(row, row)
        deviation = np.sqrt(arrays["gradient_variance"])
        panel.plot(arrays["distance"], deviation, label=name, **series_style(index))
        panel.annotate(
            f"{arrays['betas'][-1]:g}", (arrays["distance"][-1], deviation[-1]), xytext=(3, 3),
            textcoords="offset points", fontsize=6.5,
        )  # fmt: skip
    panel.set(xscale="log", yscale="log")
    panel.set_xlabel("distance from binary, E|ζ − z| [no unit]")
    panel.set_ylabel("standard deviation\nof ∂ζ/∂q [no unit]")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_locator(NullLocator())
    panel.margins(x=0.04, y=0.12)
    grid(panel, "both")
