"""Dataset cards: what a dataset is, from where, under which licence, how it was split, and a picture of 25 examples.

A card is two small files, made when a dataset is prepared: `<name>.json`, its split certificate, and `<name>.png`.
The picture shows rows at equal distances through the first split that there is, none of them chosen.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dgmbench.assemble.figures.samples import as_pictures, mosaic
from dgmbench.data import catalogue
from dgmbench.data.catalogue import DatasetRef, Entry
from dgmbench.data.loading import SPLITS
from dgmbench.data.prepare import open_dataset
from dgmbench.files import read_json, write_bytes

if TYPE_CHECKING:
    from dgmbench.data.prepared import Dataset

FOLDER = Path("results/datasets")  # the cards of the catalogue's own options
EXAMPLES, SIDE = 25, 5
_POINTS = 2000
_PAPER = 0.65  # grey between images, which may be white or black at their edges
_COLOURS = 64
_PIXELS, _INCHES = 440, 3.0  # of a picture's edge


def write_card(prepared: Path, certificate: Path) -> None:
    """Copy a prepared dataset's certificate to `certificate` and draw its picture beside it, as `.png`."""
    write_bytes(certificate.with_suffix(".png"), picture(open_dataset(prepared)))
    write_bytes(certificate, (prepared / "certificate.json").read_bytes())


def picture(data: "Dataset") -> bytes:
    """A PNG of 25 examples: images side by side, points in the plane as points, other vectors as rows of colours."""
    split, rows = next(iter(data.splits.items()))
    if data.shape == (2,):
        return _points(rows)
    chosen = np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows))).round().astype(int)
    x = np.asarray(rows.x[chosen], dtype=np.float64)
    sizes = data.certificate["notes"].get("sizes", {}).get(split)
    if sizes:
        return _png(_tiles(x.reshape(-1, *data.shape), [sizes[row] for row in chosen]))
    pictures, contrast = as_pictures(x, data.shape)
    if pictures is None:
        low, high = x.min(), x.max()
        return _png(_enlarged((x - low) / (high - low or 1.0), _PIXELS // len(x), max(1, _PIXELS // x.shape[1])))
    canvas = mosaic(pictures, SIDE, contrast, _PAPER)
    scale = max(1, _PIXELS // max(canvas.shape[:2]))
    return _png(_enlarged(canvas, scale, scale))


def _points(rows: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from dgmbench.assemble.figures.base import COLORS, style

    count = min(_POINTS, len(rows))
    x, labels = np.asarray(rows.x[:count]), None if rows.labels is None else np.asarray(rows.labels[:count])
    with style():
        figure = Figure(figsize=(_INCHES, _INCHES), layout="constrained")
        axes = figure.subplots()
        colours = COLORS[0] if labels is None else [COLORS[label % len(COLORS)] for label in labels]
        axes.scatter(x[:, 0], x[:, 1], s=2, c=colours, linewidths=0)
        axes.set_aspect("equal")
        canvas = FigureCanvasAgg(figure)
        figure.set_dpi(_PIXELS / _INCHES)
        canvas.draw()
    return _png(np.asarray(canvas.buffer_rgba())[:, :, :3] / 255)


def _tiles(canvases: np.ndarray, sizes: list[list[int]]) -> np.ndarray:
    """Whole images of several sizes, each reduced to a tile of one size with its own proportions."""
    from PIL import Image

    tile = _PIXELS // SIDE - 4
    tiles = np.ones((len(canvases), tile, tile, *canvases.shape[3:]))
    for index, (canvas, (height, width)) in enumerate(zip(canvases, sizes)):
        image = Image.fromarray(np.uint8(np.round(255 * canvas[:height, :width])))
        image.thumbnail((tile, tile), Image.Resampling.BOX)
        reduced = np.asarray(image) / 255
        tiles[index, : reduced.shape[0], : reduced.shape[1]] = reduced
    return mosaic(tiles, SIDE, False)


def _enlarged(x: np.ndarray, vertical: int, horizontal: int) -> np.ndarray:
    return x.repeat(max(1, vertical), axis=0).repeat(horizontal, axis=1)


def _png(x: np.ndarray) -> bytes:
    from PIL import Image

    stream, image = io.BytesIO(), Image.fromarray(np.uint8(np.round(255 * np.clip(x, 0, 1))))
    # The report holds dozens of these: 64 colours look the same at a third of the size.
    (image if image.mode == "L" else image.quantize(_COLOURS)).save(stream, "PNG", optimize=True)
    return stream.getvalue()


@dataclass
class Card:
    """What the report shows of one dataset; `certificate` and `picture` are None where it was not prepared."""

    entry: Entry
    ref: DatasetRef
    certificate: dict[str, Any] | None
    picture: str | None
    used: bool

    @property
    def shape(self) -> str:
        return " × ".join(map(str, catalogue.describe(self.ref).shape))

    @property
    def values(self) -> str:
        return catalogue.describe(self.ref).values

    @property
    def split_facts(self) -> dict[str, dict[str, Any]]:
        """The certificate's facts of each split, in the order of use."""
        held = (self.certificate or {}).get("splits", {})
        return {split: held[split] for split in SPLITS if split in held}

    @property
    def has_groups(self) -> bool:
        return any("groups" in facts for facts in self.split_facts.values())

    @property
    def classes(self) -> dict[str, int]:
        """How many labels each split has, for the splits that carry labels."""
        return {split: len(facts["labels"]) for split, facts in self.split_facts.items() if "labels" in facts}

    @property
    def commands(self) -> str:
        """What makes the certificate that is not there."""
        fetch = f"dgmbench fetch {self.entry.name} && " if self.entry.files else ""
        return f"{fetch}dgmbench prepare {self.entry.name}"

    @property
    def notes(self) -> dict[str, str]:
        """The certificate's notes that are sentences or short lists."""
        notes = (self.certificate or {}).get("notes", {})
        words = {k: v if isinstance(v, str) else str(v) for k, v in notes.items() if isinstance(v, str | int | float)}
        return {name: text for name, text in words.items() if not name.endswith("sha256")}


def cards(used: dict[str, DatasetRef], folder: Path, catalogue_folder: Path = FOLDER) -> list[Card]:
    """A card for each dataset that the experiments use, then one for each other entry of the catalogue.

    Args:
        used: the datasets of the plan by key; their certificates and pictures lie in `folder`.
        catalogue_folder: the cards of the catalogue's own options; one of other code or files is left out.
    """
    found = [_card(ref, folder / f"{key}.json", used=True) for key, ref in used.items()]
    names = {ref.name for ref in used.values()}
    for name in catalogue.entries():
        if name not in names:
            found.append(_card(catalogue.resolve(name), catalogue_folder / f"{name}.json", used=False))
    return found


def _card(ref: DatasetRef, path: Path, used: bool) -> Card:
    certificate = read_json(path) if path.is_file() else None
    if certificate is not None and certificate.get("identity") != ref.identity:
        certificate = None
    image = path.with_suffix(".png")
    shown = None
    if certificate is not None and image.is_file():
        shown = "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
    return Card(catalogue.entry(ref.name), ref, certificate, shown, used)
