"""Training curves: one small panel for each model and recorded quantity, one line for each row and seed."""

import math
from typing import TYPE_CHECKING

from pydantic import Field

from dgmbench.assemble.figures.base import COLORS, LINES, FigureData, FigureOptions, grid, new_figure, nothing_to_show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_LINE = 3
MOST_PANELS = 24
NAMED_UNITS = {"nats": "nats", "bits": "bits", "seconds": "s", "db": "dB", "percent": "%"}
NATS = dict.fromkeys(("likelihood", "bound", "elbo", "loss", "energy", "kl", "nll"), "nats")
UNITS = {**NATS, "components": "count", "epoch": "count", "seconds": "s"}


class Options(FigureOptions):
    quantities: list[str] | None = Field(None, description="Recorded quantities to show; all if left out.")


def draw(data: FigureData, options: Options) -> "Figure":
    """Panels in the order of the rows, at most `MOST_PANELS` of them."""
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
    figure, axes = new_figure(lines, columns, height=max(1.75 * lines, 2.0))
    for panel, ((model, quantity), rows) in zip(axes.flat, shown):
        for index, row in enumerate(rows):
            for seed, frame in enumerate(data.histories[row]):
                if quantity not in frame:
                    continue
                known = frame[["step", quantity]].dropna()
                panel.plot(
                    known["step"],
                    known[quantity],
                    color=COLORS[index % len(COLORS)],
                    linestyle=LINES[index % len(LINES)],
                    linewidth=1.1,
                    marker="." if len(known) < 12 else None,  # a line through few points hides them
                    alpha=1 if seed == 0 else 0.55,
                    label=data.labels.get(row, row) if seed == 0 else None,
                )
        panel.set_title(model, weight="normal")
        panel.set_xlabel("step [updates]")
        panel.set_ylabel(axis_label(quantity))
        grid(panel)
        if 1 < len(rows) <= 4:
            panel.legend(handlelength=2.2)
    for unused in axes.flat[len(shown) :]:
        unused.axis("off")
    return figure


def axis_label(quantity: str) -> str:
    """`validation_bound` -> `validation bound [nats]`; `loss_bits` names its unit itself."""
    words = quantity.split("_")
    if len(words) > 1 and words[-1] in NAMED_UNITS:
        return f"{' '.join(words[:-1])} [{NAMED_UNITS[words[-1]]}]"
    unit = next((unit for word, unit in UNITS.items() if word in words), "as recorded")
    return f"{' '.join(words)} [{unit}]"
