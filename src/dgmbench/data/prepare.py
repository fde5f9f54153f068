"""Prepare a dataset: raw files -> splits with a certificate, whole or not at all, and open what was prepared."""

import contextlib
import os
import secrets
import shutil
import struct
import tempfile
import tokenize
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dgmbench.data import certificate
from dgmbench.data.catalogue import DatasetRef, Entry, describe, entry, loader, splits
from dgmbench.data.fetch import MANIFEST, measure
from dgmbench.data.loading import SPLITS, Writer
from dgmbench.data.room import room
from dgmbench.errors import CannotBeDone, UserError
from dgmbench.files import write_json
from dgmbench.progress import NoProgress, Progress

if TYPE_CHECKING:
    from dgmbench.data.prepared import Dataset

# What reading damaged or foreign bytes raises; anything else is a mistake of ours and shows as one.
_UNREADABLE = (
    *(ArithmeticError, EOFError, LookupError, MemoryError, TypeError, ValueError),
    *(struct.error, tokenize.TokenError, zlib.error),
)


def prepare(ref: DatasetRef, raw: Path, destination: Path, progress: Progress | None = None) -> Path:
    """Write `destination`/<key>/ with one array for each split and `certificate.json`, and return that folder.

    Args:
        raw: the folder that `fetch` fetched into, with the dataset's files in `raw`/<name>/.

    The same reference and raw files give the same bytes. Raises `UserError` where the raw files are not what
    was fetched, where a value is not of the declared kind, or where the disk is full; then nothing is left.
    """
    found = entry(ref.name)
    destination = Path(destination)
    files = _raw_files(found, Path(raw) / ref.name)
    destination.mkdir(parents=True, exist_ok=True)
    final = destination / ref.key
    # Named before it is made, so that an interruption between the two still removes it.
    directory = destination / f".{ref.key}.{secrets.token_hex(4)}"
    module, description = loader(found.loader), describe(ref)
    writer = Writer(directory, description, progress or NoProgress())
    try:
        directory.mkdir()
        with room(destination, lambda: writer.bytes):
            with reading(files):
                module.prepare(files, module.Options(**ref.options), writer)
            _require_splits(directory, splits(ref), ref)
            about = {
                "version": found.version,
                "licence": found.licence,
                "citation": found.citation,
                "notes": writer.notes,
                "raw": {file.name: file.identity for file in found.files},
            }
            with reading(files):
                told = certificate.build(directory, ref, description, about=about)
            write_json(directory / certificate.FILE, told)
        _sync(directory)
        _replace(directory, final)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return final


@contextlib.contextmanager
def reading(files: Iterable[str]) -> Iterator[None]:
    """Whatever the content of a dataset's files makes a loader raise becomes one sentence that names them."""
    names = list(files)
    try:
        yield
    except UserError as error:
        if not names or any(name in str(error) for name in names):
            raise
        raise UserError(f"{', '.join(names)}: {error}") from error
    except _UNREADABLE as error:
        raise UserError(
            f"{', '.join(names)}: not in the format of the dataset's loader, or damaged "
            f"({type(error).__name__}: {' '.join(str(error).split())})."
        ) from error


def open_dataset(directory: Path) -> "Dataset":
    """A prepared dataset, memory-mapped; nothing in it is ever unpickled.

    Sizes and types are held against the certificate (its checksums by `certificate.verify`, which reads
    everything). Raises `UserError` where they differ, or where a file is missing or damaged.
    """
    from dgmbench.data.prepared import Dataset, Split

    directory = Path(directory)
    told = certificate.read_certificate(directory)
    splits = _Splits(told["name"])
    for split in (split for split in SPLITS if split in told["splits"]):
        facts = told["splits"][split]
        x = certificate.load(directory / f"{split}.npy")
        if x.shape != (facts["rows"], facts["dimension"]) or x.dtype.str != facts["dtype"]:
            raise UserError(
                f"{directory}: {split} is {x.dtype.str} {x.shape}, its certificate says {facts['dtype']} "
                f"({facts['rows']}, {facts['dimension']}): remove the folder and prepare the dataset again."
            )
        splits[split] = Split(
            x,
            labels=_column(directory, split, "labels", facts),
            groups=_column(directory, split, "groups", facts),
            binarize=split in told["binarize"],
        )
    return Dataset(told["name"], told["identity"], told["values"], tuple(told["shape"]), splits, told)


class _Splits(dict):
    """Splits by name; one that the dataset does not have is refused in a sentence that becomes a run's reason."""

    def __init__(self, dataset: str):
        super().__init__()
        self.dataset = dataset

    def __missing__(self, split: str):
        raise CannotBeDone(
            f"dataset '{self.dataset}' has no {split} split with these options, only {', '.join(self)}: give it one "
            f"(option `{split}`, where its loader has it) or choose another dataset."
        )


def _column(directory: Path, split: str, suffix: str, facts: dict) -> np.ndarray | None:
    if suffix not in facts:
        return None
    column = certificate.load(directory / f"{split}_{suffix}.npy")
    if column.shape != (facts["rows"],):
        raise UserError(f"{directory}: {split}_{suffix}.npy has {column.shape} values for {facts['rows']} rows.")
    return column


def _require_splits(directory: Path, declared: tuple[str, ...], ref: DatasetRef) -> None:
    written = tuple(split for split in SPLITS if (directory / f"{split}.npy").is_file())
    if written != declared:
        raise RuntimeError(f"the loader of '{ref.name}' declares the splits {declared} and wrote {written}")


def _raw_files(found: Entry, folder: Path) -> dict[str, Path]:
    """The files by name, each verified to be what the catalogue asks for."""
    again = f"run `dgmbench fetch {found.name}`."
    if found.files and not (folder / MANIFEST).is_file():
        raise UserError(f"the files of dataset '{found.name}' are not in {folder}: {again}")
    for file in found.files:
        path = folder / file.name
        if not path.is_file() or not measure(path, file).matched:
            raise UserError(f"{path} is missing, or is not what the catalogue asks for: {again}")
    return {file.name: folder / file.name for file in found.files}


def _sync(directory: Path) -> None:
    for path in directory.iterdir():
        path.chmod(0o644)
        with open(path, "rb+") as stream:
            os.fsync(stream.fileno())
    directory.chmod(0o755)


def _replace(directory: Path, final: Path) -> None:
    """Rename a folder into place; a folder that is there already goes only once the new one is whole."""
    if final.exists():
        old = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.old."))
        os.replace(final, old / final.name)
        os.replace(directory, final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(directory, final)
