"""What a figure's module is given, and the style that all figures share.

A figure is one file: docstring (what it shows, its source), `Options` (what an experiment may tell it) and
`draw(data: FigureData, options: Options) -> matplotlib.figure.Figure`. Figures read in grey: series differ by marker
and line style, colour only helps.
"""

import base64
import io
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from dgmbench.assemble.verdict import PROTOCOL_DIFFERS
from dgmbench.files import sha256_file, write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 170 / 25.4  # inches: a text block of 170 mm
DPI = 200  # of what is rasterised within a picture, clouds of points
FORMATS = ("svg", "pdf")  # the first is what is committed and shown; PDF, for LaTeX, is made beside it
_EMBEDDED = re.compile(rb"(data:image/png;base64,)([A-Za-z0-9+/=\s]+)")  # in an SVG file
# Okabe and Ito's palette, ordered so that neighbours differ in lightness too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HOLLOW = "hollow: not converged"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (6, 3)))
INK, FAINT = "#222222", "#8a8a8a"
NATS = "nats"
_CHARACTERS, _MOST_LINES = 95, 12  # of a reason that stands in place of a figure


@dataclass(frozen=True)
class NameOf:
    """Marks an option whose strings, or keys, name something of the experiment: it is looked up when planning.

    With `grid` each key's value begins with the name of a setting that the key's evaluation has in its grid.
    """

    what: Literal["column", "metric", "evaluation", "row", "hyper-parameter", "estimator"]
    grid: bool = False


ColumnNames = Annotated[list[str] | None, NameOf("column")]
EstimatorName = Annotated[str, NameOf("estimator")]
EstimatorNames = Annotated[tuple[str, ...], NameOf("estimator")]
EvaluationName = Annotated[str, NameOf("evaluation")]
HyperParameter = Annotated[str, NameOf("hyper-parameter")]
MetricName = Annotated[str, NameOf("metric")]
RowNames = Annotated[list[str] | None, NameOf("row")]


class FigureOptions(BaseModel):
    """What an experiment's `figure.options` may say; each figure declares its own.

    `arrays_of`: the estimators whose arrays the figure draws; those of others are not loaded, and need not be here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    arrays_of: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Source:
    """Arrays that a picture draws: of which row, their checksum, and whether they are on this machine."""

    row: str
    checksum: str | None
    here: bool


@dataclass(frozen=True)
class FigureData:
    """What one experiment's figures are drawn from.

    Attributes:
        cells: one row for each number: the ledger's columns, and row_name, label, evaluation_name, estimator,
            better, parameters and settings (dicts of the grids' values), and differs, how the protocol is another than
            the published one's.
        histories: row -> one frame for each seed that has been trained: column step, then recorded quantities.
        samples: row -> (n, d) samples of the first seed.
        shapes: row -> shape of one example, where known.
        missing: row -> why a row that was to be sampled has no samples here.
        labels: row -> what is printed for it.
        arrays: estimator that gives numbers too, of those that the main figure draws arrays of -> row -> name -> array,
            of the row's first seed and the estimator's first column.
        missing_arrays: estimator -> row -> why there are none of its arrays here.
        sources: ending of the main picture's and the samples' name -> evaluation -> the arrays that it draws.
    """

    title: str
    cells: pd.DataFrame
    histories: dict[str, list[pd.DataFrame]]
    samples: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    missing: dict[str, str]
    labels: dict[str, str]
    arrays: dict[str, dict[str, dict[str, np.ndarray]]] = field(default_factory=dict)
    missing_arrays: dict[str, dict[str, str]] = field(default_factory=dict)
    sources: dict[str, dict[str, Source]] = field(default_factory=dict)


@contextmanager
def style() -> Iterator[None]:
    """Fonts, lines and reproducible SVG identifiers; nothing leaks into the caller's settings."""
    import matplotlib
    import seaborn

    settings = {
        **seaborn.axes_style("ticks"),
        **seaborn.plotting_context("paper"),
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 8,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "legend.fontsize": 7.5,
        "legend.title_fontsize": 7.5,
        "legend.frameon": False,
        "axes.linewidth": 0.7,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "xtick.minor.width": 0.5,
        "ytick.minor.width": 0.5,
        "lines.linewidth": 1.4,
        "lines.markersize": 4.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "svg.hashsalt": "dgmbench",
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
        "image.cmap": "gray",
        # Embedded in SVG and PDF as they are, not enlarged to the picture's resolution.
        "image.interpolation": "none",
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(rows: int = 1, columns: int = 1, height: float = 2.6, **options: Any) -> "tuple[Figure, np.ndarray]":
    """A figure of the text's width without pyplot's global state; axes as a (rows, columns) array."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Write the figure as SVG and PDF without dates: equal figures give equal bytes. The page makes PNGs of it.

    The PDF's keywords hold the SVG's checksum, which tells what picture it is of.
    """
    # One layout serves both: it costs as much as drawing. With an engine, even "none", each would be drawn twice.
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    paths = [folder / f"{name}.{extension}" for extension in FORMATS]
    write_bytes(paths[0], _EMBEDDED.sub(_embedded_again, _rendered(figure, "svg", {"Date": None})))
    keywords = sha256_file(paths[0])
    write_bytes(paths[1], _rendered(figure, "pdf", {"CreationDate": None, "Keywords": keywords}))
    return paths


def _rendered(figure: "Figure", extension: str, metadata: dict[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=extension, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def _of_few_colours(png: bytes) -> bytes:
    """A picture in grey levels where it has no others, else in at most 256 colours, a third of the bytes: figures are
    committed. One that can be seen through stays as it is."""
    from PIL import Image, ImageChops

    picture = Image.open(io.BytesIO(png))
    if "A" in picture.getbands() and picture.getchannel("A").getextrema()[0] < 255:
        return png
    colours = picture.convert("RGB")
    few = colours.convert("L")
    if ImageChops.difference(colours, few.convert("RGB")).getbbox() is not None:
        # Without dithering: an area of one colour stays one.
        few = colours.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _embedded_again(found: re.Match[bytes]) -> bytes:
    """The same of a picture within an SVG file."""
    return found[1] + base64.b64encode(_of_few_colours(base64.b64decode(found[2])))


def nothing_to_show(reason: str) -> "Figure":
    """A figure that says why it is empty, as high as the reason's lines are: text that runs over has no layout."""
    lines = [line for part in reason.splitlines() for line in textwrap.wrap(part, _CHARACTERS)]
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], "..."]
    figure, axes = new_figure(height=max(1.0, 0.3 + 0.15 * len(lines)))
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.5, "\n".join(lines), ha="center", va="center", color=INK)
    return figure


def series_style(index: int) -> dict[str, Any]:
    """Colour, marker and line of the index-th series."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def grid(axes: "Axes", axis: str = "y") -> None:
    axes.grid(True, axis=axis, color="#dddddd", linewidth=0.6)


def thousands(count: float) -> str:
    """`800`, `20k`: a count that leaves room for the next tick's."""
    return f"{count / 1000:g}k" if abs(count) >= 1000 else f"{count:g}"


def done(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that have a number."""
    return cells[cells["obtained"].notna()]


def where(cells: pd.DataFrame, kept: Iterable[bool]) -> pd.DataFrame:
    """The cells for which `kept` holds; an empty list keeps the columns, which plain indexing does not."""
    return cells[np.fromiter(kept, dtype=bool, count=len(cells))]


def in_columns(cells: pd.DataFrame, wanted: Iterable[str] | None) -> pd.DataFrame:
    """The cells of the columns or evaluations that are named; all of them for None."""
    if wanted is None:
        return cells
    return cells[cells["column"].isin(wanted) | cells["evaluation_name"].isin(wanted)]


def unconverged(cells: pd.DataFrame) -> pd.Series:
    """Of each cell, whether its estimator has not converged: such a number is drawn hollow."""
    return cells["converged"].eq(False)


def of_other_protocol(cells: pd.DataFrame) -> pd.Series:
    """Of each cell, whether the number published beside it was made in another way: known before ours is there."""
    declared = cells["differs"].map(lambda said: isinstance(said, str) and said != "")
    return cells["published"].notna() & (declared | (cells["verdict"] == PROTOCOL_DIFFERS))


def hollow(axes: "Axes", cells: pd.DataFrame, x: str, y: str, style: dict[str, Any]) -> None:
    """White centres on those markers of a line in a `series_style` whose numbers have not converged."""
    moving = cells[unconverged(cells)]
    if not moving.empty:
        own = {"marker": style["marker"], "markeredgecolor": style["color"], "markerfacecolor": "white"}
        axes.plot(moving[x], moving[y], linestyle="none", markeredgewidth=1.0, zorder=5, **own)


def largest_uncertainty(cell: pd.Series) -> float:
    """The largest of a cell's three uncertainties: what is drawn where one bar must do."""
    known = [cell[name] for name in ("seed_sd", "test_se", "estimator_se") if pd.notna(cell[name])]
    return float(max(known, default=0.0))
