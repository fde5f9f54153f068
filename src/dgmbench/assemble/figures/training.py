"""Training curves: one small panel for each model and recorded quantity, one line for each row and seed.

A row has one colour and line in all panels; the legend below them names the rows.
"""

import math
import textwrap
from typing import TYPE_CHECKING

from pydantic import Field

from dgmbench.assemble.figures.base import (
    COLORS,
    LINES,
    FigureData,
    FigureOptions,
    grid,
    new_figure,
    nothing_to_show,
    thousands,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PER_LINE = 3
_LEGEND_LINE = 0.165  # inches
# Characters of a name in a legend of three columns, of two at the usual size, and in any.
_NARROW, _WIDE, _LONGEST = 30, 45, 60
_LABEL = 24  # characters in a line of a panel's label
MOST_PANELS = 24
NAMED_UNITS = {"nats": "nats", "bits": "bits", "seconds": "s", "db": "dB", "percent": "%"}
NATS = dict.fromkeys(("likelihood", "bound", "elbo", "loss", "energy", "kl", "nll"), "nats")
UNITS = {**NATS, "components": "count", "epoch": "count", "seconds": "s"}


class Options(FigureOptions):
    quantities: list[str] | None = Field(None, description="Recorded quantities to show; all if left out.")


def draw(data: FigureData, options: Options) -> "Figure":
    """Panels in the order of the rows, at most `MOST_PANELS` of them."""
    from matplotlib.ticker import MaxNLocator

    wanted = options.quantities
    models = data.cells.drop_duplicates("row").set_index("row")["model"].to_dict()
    panels: dict[tuple[str, str], list[str]] = {}
    for row, frames in data.histories.items():
        for quantity in dict.fromkeys(name for frame in frames for name in frame.columns if name != "step"):
            recorded = any(len(frame) > 1 and quantity in frame and frame[quantity].notna().any() for frame in frames)
            if recorded and (wanted is None or quantity in wanted):
                panels.setdefault((models.get(row, row), quantity), []).append(row)
    if not panels:
        return nothing_to_show("No row of this experiment has recorded training curves here.")
    shown = list(panels.items())[:MOST_PANELS]
    columns = min(PER_LINE, len(shown))
    lines = math.ceil(len(shown) / columns)
    drawn = list(dict.fromkeys(row for _, rows in shown for row in rows))
    names = {row: _shortened(data.labels.get(row, row)) for row in drawn}
    across = 2 if max(map(len, names.values())) > _NARROW else PER_LINE
    below = _LEGEND_LINE * math.ceil(len(drawn) / across) if len(drawn) > 1 else 0.0
    figure, axes = new_figure(lines, columns, height=max(1.75 * lines, 2.0) + below)
    handles: dict[str, Line2D] = {}
    for panel, ((model, quantity), rows) in zip(axes.flat, shown):
        for row in rows:
            index = drawn.index(row)
            for seed, frame in enumerate(data.histories[row]):
                if quantity not in frame:
                    continue
                known = frame[["step", quantity]].dropna()
                (line,) = panel.plot(
                    known["step"],
                    known[quantity],
                    color=COLORS[index % len(COLORS)],
                    linestyle=LINES[(index + index // len(COLORS)) % len(LINES)],
                    linewidth=1.1,
                    marker="." if len(known) < 12 else None,  # a line through few points hides them
                    alpha=1 if seed == 0 else 0.55,
                )
                handles.setdefault(row, line)
        panel.set_title(model, weight="normal")
        panel.set_xlabel("step [updates]")
        panel.set_ylabel(textwrap.fill(axis_label(quantity), _LABEL))
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panel.xaxis.set_major_formatter(lambda step, _: thousands(step))
        grid(panel)
    for unused in axes.flat[len(shown) :]:
        unused.axis("off")
    if len(handles) > 1:
        told = [names[row] for row in handles]
        size = 6.5 if across == 2 and max(map(len, told)) > _WIDE else None  # two wide columns fill the text's width
        figure.legend(handles.values(), told, loc="outside lower center", ncols=across, handlelength=2.8, fontsize=size)
    return figure


def _shortened(label: str) -> str:
    return textwrap.shorten(label, _LONGEST, placeholder=" ...")


def axis_label(quantity: str) -> str:
    """`validation_bound` -> `validation bound [nats]`; `loss_bits` names its unit itself."""
    words = quantity.split("_")
    if len(words) > 1 and words[-1] in NAMED_UNITS:
        return f"{' '.join(words[:-1])} [{NAMED_UNITS[words[-1]]}]"
    unit = next((unit for word, unit in UNITS.items() if word in words), "as recorded")
    return f"{' '.join(words)} [{unit}]"
