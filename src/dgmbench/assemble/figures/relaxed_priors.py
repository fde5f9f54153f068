"""Mean field in a relaxed Boltzmann prior: against its rounds and along training; and the noise of logit gradients.

    a: KL(m || p(z given zeta)) against rounds, thin for single zeta, thick for their mean, of the longest training
    b: its mean after the last round, against how long the prior was trained, a line for each smoothing
    c: variance of the gradient with respect to the log-odds of q, likewise

Divergences below 1e-6 nats are drawn there: the last digits of log Z are not worth more.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, figure 2.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field

from dgmbench.assemble.figures.base import (
    COLORS,
    FAINT,
    INK,
    MARKERS,
    FigureData,
    FigureOptions,
    HyperParameter,
    done,
    grid,
    new_figure,
    nothing_to_show,
    where,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ESTIMATOR = "mean_field_divergence"
CURVES = {"divergence": "mean KL, last round [nats]", "gradient_variance": "variance of ∂L/∂logit [nats²]"}
TYPICAL = 0.2  # nats, the paper's word for what the divergence is typically below
UPDATES = {"iterations": "updates", "stop_after": "updates"}  # what a hyper-parameter counts, where its name is no unit
FAMILIES = ("exponential", "power_function", "uniform_exponential", "gaussian")
SINGLE = 30  # zeta drawn as thin lines
_LEAST = 1e-6  # nats


class Options(FigureOptions):
    arrays_of = (ESTIMATOR,)

    x: HyperParameter = Field(
        "epochs", description="The hyper-parameter that says how long a prior was trained, of some row's grid."
    )


def draw(data: FigureData, options: Options) -> "Figure":
    """Mean field over its rounds, and both quantities along training."""
    x = options.x
    points = _points(done(data.cells), x)
    if points.empty:
        return nothing_to_show("No divergence of mean field and no gradient has come out yet.")
    figure, axes = new_figure(1, 3, height=3.0)
    handles: dict[str, Any] = {}
    _rounds(axes[0, 0], data, points)
    for panel, (metric, label) in zip(axes[0, 1:], CURVES.items()):
        _along_training(panel, points[points["metric"] == metric], handles)
        panel.set(xlabel=f"training [{UPDATES.get(x, x)}]", ylabel=label)
    axes[0, 1].axhline(TYPICAL, color=INK, linewidth=0.8)
    axes[0, 1].annotate(
        f"published: typically below {TYPICAL:g}", (1.0, TYPICAL), xycoords=("axes fraction", "data"), xytext=(0, 2),
        textcoords="offset points", ha="right", fontsize=6.5,
    )  # fmt: skip
    for letter, panel, title in zip("abc", axes[0], ("rounds of mean field", "along training", "noise of gradients")):
        panel.set_title(f"{letter}  {title}")
        grid(panel)
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, handlelength=3)
    return figure


def _points(cells: pd.DataFrame, x: str) -> pd.DataFrame:
    """One line for each number: how long its row was trained, its smoothing and beta, its value and uncertainty."""
    kept = []
    for _, cell in where(cells, (metric in CURVES for metric in cells["metric"])).iterrows():
        if x not in cell["parameters"] or not {"smoothing", "beta"} <= cell["settings"].keys():
            continue
        known = [cell[name] for name in ("test_se", "estimator_se") if pd.notna(cell[name])]
        kept.append(
            {
                "row": cell["row"],
                "metric": cell["metric"],
                "x": cell["parameters"][x],
                "smoothing": cell["settings"]["smoothing"],
                "beta": cell["settings"]["beta"],
                "obtained": cell["obtained"],
                "se": float(np.hypot.reduce(known)) if known else 0.0,
            }
        )
    return pd.DataFrame(kept, columns=["row", "metric", "x", "smoothing", "beta", "obtained", "se"])


def _rounds(panel: "Axes", data: FigureData, points: pd.DataFrame) -> None:
    """Divergence after each round, of the row that was trained longest and its first smoothing."""
    panel.set(xlabel="rounds [count]", ylabel="KL(m ‖ p(z | ζ)) [nats]")
    found = data.arrays.get(ESTIMATOR, {})
    own = points[(points["metric"] == "divergence") & points["row"].isin(list(found))]
    if own.empty:
        reasons = list(dict.fromkeys(data.missing_arrays.get(ESTIMATOR, {}).values())) or ["not evaluated"]
        panel.axis("off")
        panel.text(0.5, 0.5, reasons[0], ha="center", va="center", color=FAINT, fontsize=7, wrap=True)
        return
    longest = own.loc[own["x"].idxmax()]
    divergence = found[longest["row"]]["divergence"]
    rounds = np.arange(len(divergence))
    panel.plot(rounds, np.maximum(divergence[:, :SINGLE], _LEAST), color=FAINT, linewidth=0.5, alpha=0.6)
    panel.plot(
        rounds, np.maximum(divergence.mean(1), _LEAST), color=INK, marker="o", markeredgecolor="white", linewidth=1.8
    )
    panel.set(yscale="log", xticks=rounds if len(rounds) <= 11 else rounds[::5])
    said = f"{_name(longest['smoothing'], longest['beta'])}\nmean, and single ζ;\nbelow 10⁻⁶ drawn there"
    panel.annotate(said, (0.97, 0.96), xycoords="axes fraction", ha="right", va="top", fontsize=6.5)


def _along_training(panel: "Axes", points: pd.DataFrame, handles: dict[str, Any]) -> None:
    """A line for each smoothing and beta: the family in colour and line, beta in the marker."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    for (smoothing, beta), part in points.groupby(["smoothing", "beta"], sort=False):
        part = part.sort_values("x")
        family = FAMILIES.index(smoothing)
        betas = sorted(set(points[points["smoothing"] == smoothing]["beta"]))
        name = _name(smoothing, beta)
        look = {"color": COLORS[family], "linestyle": ("-", "--", "-.", ":")[family]}
        if name in handles:  # the same line in both panels has the same marker
            look["marker"] = handles[name].lines[0].get_marker()
        else:
            look["marker"] = MARKERS[betas.index(beta) % len(MARKERS)]
        height = part["obtained"].clip(lower=_LEAST)
        drawn = panel.errorbar(part["x"], height, yerr=part["se"], capsize=1.5, **look)
        handles.setdefault(name, drawn)
    panel.set(xscale="log", yscale="log")
    ticks = sorted(set(points["x"]))
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    if not points.empty and points["obtained"].max() < 100 * max(points["obtained"].min(), _LEAST):
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))  # powers of ten alone would leave two ticks
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))


def _name(smoothing: str, beta: float) -> str:
    return f"{smoothing.replace('_', ' ')}, β = {beta:g}"
