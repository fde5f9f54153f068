"""What a dataset's loader is written against.

A loader is one module, `data/datasets/<loader>.py`, with

    class Options(LoaderOptions)                          everything that can be chosen, with ranges
    def describe(options) -> Description                  what will come out; needs no data
    def prepare(files, options, writer) -> None           files by name -> splits, handed to the writer

and the same files and options always give the same bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from dgmbench.data.room import reserve
from dgmbench.progress import NoProgress, Progress

SPLITS = ("train", "validation", "test")


class LoaderOptions(BaseModel):
    """Options of a loader: unknown keys are refused, every field has a description and a range."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Description:
    """What a prepared dataset holds, known before there is any data.

    Attributes:
        values: `binary` {0, 1}, `unit` [0, 1] or `real`, as a model will see them.
        shape: of one example, (8, 8) for an image or (63,) for a vector.
        binarize: splits stored as grey values in [0, 1] and drawn anew as Bernoulli at every use.
    """

    values: str
    shape: tuple[int, ...]
    binarize: tuple[str, ...] = ()

    @property
    def dimension(self) -> int:
        return int(np.prod(self.shape))


class Loader(ModuleType):
    """The shape of a loader's module (for readers and type checkers)."""

    Options: type[LoaderOptions]
    describe: Callable[..., Description]
    prepare: Callable[..., None]


class Writer:
    """Takes the splits of one dataset and lays them down as `<split>.npy`, `_labels.npy` and `_groups.npy`."""

    def __init__(self, directory: Path, description: Description, progress: Progress | None = None):
        self.directory = Path(directory)
        self.description = description
        self.progress = progress or NoProgress()
        self.notes: dict[str, Any] = {}
        self.bytes = 0
        self._rows: dict[str, int] = {}

    def create(self, split: str, n: int, dtype: str | np.dtype = "float32") -> np.memmap:
        """An (n, d) array on disk, zero at first, to be filled in chunks."""
        if split not in SPLITS or split in self._rows or n < 1:
            raise ValueError(f"create('{split}', {n}): splits are {SPLITS}, each written once with at least one row")
        self._rows[split] = n
        return self._array(f"{split}.npy", (n, self.description.dimension), np.dtype(dtype))

    def write(
        self, split: str, x: np.ndarray, labels: np.ndarray | None = None, groups: np.ndarray | None = None
    ) -> None:
        """A whole split: x (n, d) or (n, *shape), labels (n,) and groups (n,) of integers."""
        flat = np.asarray(x).reshape(len(x), -1)
        if flat.shape[1] != self.description.dimension:
            raise ValueError(f"{split}: rows of {flat.shape[1]} values where {self.description.dimension} are declared")
        array = self.create(split, len(flat), flat.dtype)
        array[:] = flat
        array.flush()
        self.attach(split, labels=labels, groups=groups)

    def attach(self, split: str, *, labels: np.ndarray | None = None, groups: np.ndarray | None = None) -> None:
        """Labels and groups, (n,) integers each, of a split that was created before."""
        for suffix, values in (("labels", labels), ("groups", groups)):
            if values is None:
                continue
            values = np.asarray(values)
            if values.shape != (self._rows[split],) or not np.issubdtype(values.dtype, np.integer):
                raise ValueError(
                    f"{split} {suffix}: need {self._rows[split]} integers, got {values.dtype} {values.shape}"
                )
            array = self._array(f"{split}_{suffix}.npy", values.shape, np.dtype(np.int64))
            array[:] = values
            array.flush()

    def note(self, **facts: Any) -> None:
        """Facts for the certificate: binarization, order of rows, duplicates that are known to be legitimate."""
        self.notes.update(facts)

    def _array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
        path = self.directory / name
        self.bytes += int(np.prod(shape)) * dtype.itemsize
        # The array's pages are claimed before they are mapped: a store to a page that the disk cannot hold
        # would kill the process instead of raising.
        with open(path, "wb") as stream:
            np.lib.format.write_array_header_1_0(
                stream, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            )
            header = stream.tell()
        reserve(path, header + int(np.prod(shape)) * dtype.itemsize)
        return np.lib.format.open_memmap(path, mode="r+")
