"""Split certificates: what a prepared dataset is, in numbers that anyone can recompute from its arrays.

For each split its size, checksum, range and mean, distinct rows, labels and groups; for each pair of splits
the rows and groups that they share. Nothing in a certificate depends on the time or the machine: equal data
give equal bytes.
"""

import hashlib
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from dgmbench.data.loading import SPLITS, Description
from dgmbench.errors import UserError
from dgmbench.files import read_json

FORMAT = 1
FILE = "certificate.json"
_CHUNK_BYTES = 16 << 20


def build(directory: Path, ref, description: Description, *, about: dict[str, Any]) -> dict[str, Any]:
    """The certificate of the arrays in a folder.

    Args:
        ref: name, options and identity of the dataset (`catalogue.DatasetRef`).
        about: what the arrays cannot tell: version, licence, citation, notes, checksums of the raw files.

    Raises `UserError` where a value is not finite or not of the declared kind.
    """
    return {
        "format": FORMAT,
        "name": ref.name,
        "identity": ref.identity,
        "options": ref.options,
        "values": description.values,
        "shape": list(description.shape),
        "binarize": list(description.binarize),
        **about,
        **evidence(directory, description),
    }


def evidence(directory: Path, description: Description) -> dict[str, Any]:
    """Everything that is computed from the arrays: `splits`, `shared_rows`, `shared_groups`."""
    splits: dict[str, Any] = {}
    rows: dict[str, np.ndarray] = {}
    groups: dict[str, np.ndarray] = {}
    for split in SPLITS:
        if not (directory / f"{split}.npy").is_file():
            continue
        splits[split], rows[split] = _split(directory, split, description)
        if (directory / f"{split}_groups.npy").is_file():
            groups[split] = np.unique(load(directory / f"{split}_groups.npy"))
    return {"splits": splits, "shared_rows": _shared(rows), "shared_groups": _shared(groups)}


def verify(directory: Path) -> list[str]:
    """What is wrong with a prepared dataset, recomputed from its arrays; an empty list where nothing is."""
    certificate = read_certificate(directory)
    description = Description(certificate["values"], tuple(certificate["shape"]), tuple(certificate["binarize"]))
    try:
        now = evidence(directory, description)
    except UserError as error:
        return [str(error)]
    problems = []
    for split in sorted(certificate["splits"].keys() | now["splits"].keys()):
        told, is_ = certificate["splits"].get(split, {}), now["splits"].get(split, {})
        problems += [
            f"{split}: {fact} is {is_.get(fact)}, the certificate says {told.get(fact)}"
            for fact in sorted(told.keys() | is_.keys())
            if told.get(fact) != is_.get(fact)
        ]
    problems += [
        f"{fact}: {now[fact]}, the certificate says {certificate[fact]}"
        for fact in ("shared_rows", "shared_groups")
        if now[fact] != certificate[fact]
    ]
    return problems


def read_certificate(directory: Path) -> dict[str, Any]:
    """The certificate of a prepared dataset; `UserError` where it is missing, damaged or of another format."""
    path = Path(directory) / FILE
    if not path.is_file():
        raise UserError(f"{directory} holds no prepared dataset: {FILE} is missing; prepare the dataset again.")
    try:
        certificate = read_json(path)
        complete = {"name", "identity", "values", "shape", "binarize", "splits"} <= certificate.keys()
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: remove {directory} and prepare the dataset again.") from error
    if certificate.get("format") != FORMAT or not complete:
        raise UserError(f"{path} has another format than {FORMAT}: remove {directory} and prepare the dataset again.")
    return certificate


def load(path: Path) -> np.ndarray:
    """An array on disk, mapped for reading; `UserError` where it is missing, cut short or not an array."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is missing or damaged: remove {path.parent} and prepare the dataset again.") from error


def _split(directory: Path, split: str, description: Description) -> tuple[dict[str, Any], np.ndarray]:
    x = load(directory / f"{split}.npy")
    if x.ndim != 2 or x.shape[1] != description.dimension:
        raise UserError(f"{split} has shape {x.shape}, not (n, {description.dimension}).")
    digest, hashes, sums = hashlib.sha256(), [], []
    low, high = math.inf, -math.inf
    for chunk in _chunks(x):
        _check_values(split, chunk, description)
        digest.update(chunk)
        hashes.append(_row_hashes(chunk))
        # Adding along the rows is the same elementwise sum on every machine, and `fsum` is exact.
        sums.append(math.fsum(chunk.astype(np.float64).sum(axis=0)))
        low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
    distinct = np.unique(np.concatenate(hashes))
    facts: dict[str, Any] = {
        "rows": len(x),
        "dimension": x.shape[1],
        "dtype": x.dtype.str,
        "sha256": digest.hexdigest(),
        "mean": math.fsum(sums) / x.size,
        "min": low,
        "max": high,
        "distinct_rows": len(distinct),
    }
    for suffix in ("labels", "groups"):
        path = directory / f"{split}_{suffix}.npy"
        if not path.is_file():
            continue
        values = load(path)
        if values.shape != (len(x),):
            raise UserError(f"{path.name} has shape {values.shape}, not ({len(x)},).")
        kinds, counts = np.unique(values, return_counts=True)
        facts[f"{suffix}_sha256"] = hashlib.sha256(np.ascontiguousarray(values)).hexdigest()
        facts[suffix] = dict(zip(map(str, kinds.tolist()), counts.tolist())) if suffix == "labels" else len(kinds)
    return facts, distinct


def _chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, _CHUNK_BYTES // (x.shape[1] * x.dtype.itemsize))
    for start in range(0, len(x), rows):
        yield np.ascontiguousarray(x[start : start + rows])


def _row_hashes(chunk: np.ndarray) -> np.ndarray:
    """A 128-bit hash of the bytes of each row."""
    rows = chunk.view(np.uint8).reshape(len(chunk), -1)
    return np.array([hashlib.blake2b(row, digest_size=16).digest() for row in rows], dtype="S16")


def _check_values(split: str, chunk: np.ndarray, description: Description) -> None:
    values = "unit" if split in description.binarize else description.values
    good = {
        "binary": lambda: bool(((chunk == 0) | (chunk == 1)).all()),
        "unit": lambda: bool(((chunk >= 0) & (chunk <= 1)).all()),
        "real": lambda: bool(np.isfinite(chunk).all()),
    }
    if not good[values]():
        where = {"binary": "0 or 1", "unit": "between 0 and 1", "real": "finite"}[values]
        raise UserError(f"{split} is declared as '{values}', but has values that are not {where}.")


def _shared(sets: dict[str, np.ndarray]) -> dict[str, int]:
    return {f"{a}-{b}": len(np.intersect1d(sets[a], sets[b], assume_unique=True)) for a, b in combinations(sets, 2)}
