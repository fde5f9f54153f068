"""A file of the user's own: one array, split into train, validation and test. One YAML entry and no code.

    .npy                     (n, ...) array
    .npz                     option `array` names which
    .csv, .csv.gz            numbers separated by commas, with or without one line of column names
    .parquet                 numeric columns

Each example has `shape`; a table may carry its labels in the column `labels`. Rows are split by a seeded
permutation, or, with `groups`, a whole group at a time: rows that belong together never reach two splits.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
from pydantic import Field, field_validator

from dgmbench.data.archives import open_bytes
from dgmbench.data.draws import permutation, stream
from dgmbench.data.loading import SPLITS, Description, LoaderOptions, Writer
from dgmbench.errors import UserError, nearest

_MISSING = ["na", "none"]  # marks of missing values in a CSV file, beside those that pandas knows (NA, null, ...)
_SHOWN = 5  # places that a message names; the rest is counted


class Options(LoaderOptions):
    values: str = Field(pattern="^(binary|unit|real)$", description="binary {0, 1}, unit [0, 1] or real.")
    shape: tuple[int, ...] = Field(min_length=1, max_length=4, description="Shape of one example, such as [28, 28].")
    array: str | None = Field(None, description="Name of the array in an .npz file.")
    scale: float = Field(1.0, gt=0, description="What the stored values are divided by: 255 for bytes of an image.")
    labels: str | None = Field(None, description="Array (.npz) or column (tables) of integer labels.")
    groups: str | None = Field(None, description="Array (.npz) or column (tables) of integer groups, kept together.")
    validation: float = Field(0.1, gt=0, lt=1, description="Fraction of the rows (or groups) that validate.")
    test: float = Field(0.2, gt=0, lt=1, description="Fraction of the rows (or groups) that test.")
    seed: int = Field(0, ge=0, description="Seed of the permutation.")

    @field_validator("shape")
    @classmethod
    def _positive(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if min(shape) < 1:
            raise ValueError("every side of the shape is at least 1")
        return shape


def describe(options: Options) -> Description:
    return Description(options.values, options.shape)


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    if len(files) != 1:
        raise UserError(f"the loader 'array' reads exactly one file, but the entry names {len(files)}.")
    name, path = next(iter(files.items()))
    x, labels, groups = read(name, open_bytes(path), options)
    dimension = int(np.prod(options.shape))
    if len(x) == 0 or x.size != len(x) * dimension:
        raise UserError(f"{name} holds {x.shape}: not rows of the shape {list(options.shape)} that the entry declares.")
    x = x.reshape(len(x), dimension)
    x = x.astype(np.uint8) if _is_binary(x, options) else (x / options.scale).astype(np.float32)
    for split, rows in zip(SPLITS, _split_rows(len(x), groups, options)):
        writer.write(
            split,
            x[rows],
            labels=None if labels is None else labels[rows],
            groups=None if groups is None else groups[rows],
        )
    writer.note(order="a seeded permutation" + (" of groups" if groups is not None else " of the file's rows"))


def _is_binary(x: np.ndarray, options: Options) -> bool:
    """Whether the values can be kept as bytes; anything else goes on as it is and the certificate refuses it."""
    return options.values == "binary" and options.scale == 1.0 and bool(((x == 0) | (x == 1)).all())


def _split_rows(n: int, groups: np.ndarray | None, options: Options) -> list[np.ndarray]:
    """Row numbers of each split, in the order in which they are kept."""
    units = np.arange(n) if groups is None else np.unique(groups)
    count = {"validation": round(options.validation * len(units)), "test": round(options.test * len(units))}
    count["train"] = len(units) - sum(count.values())
    if min(count.values()) < 1:
        what = "rows" if groups is None else "groups"
        raise UserError(f"{len(units)} {what} leave a split without any: lower `validation` or `test`.")
    order = units[permutation(stream(options.seed), len(units))]
    cuts = np.cumsum([count["train"], count["validation"]])
    parts = np.split(order, cuts)
    return parts if groups is None else [np.flatnonzero(np.isin(groups, part)) for part in parts]


def read(name: str, content: bytes, options: Options) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The examples, and labels and groups where the options name them.

    Raises:
        UserError: the file cannot be read, lacks what the options name, or has values that are missing or infinite.
    """
    x, labels, groups = _read(name, content, options)
    for key, values in ((None, x), (options.labels, labels), (options.groups, groups)):
        wrong = [] if values is None else _not_finite(values)
        if len(wrong):
            said = f"{len(wrong):,} of {len(values):,} rows have values that are missing or not finite (NaN, infinity)"
            where = name if key is None else f"{name}, '{key}'"
            raise UserError(f"{where}: {said}, {_places(name, content, wrong, len(values))}; mend or remove them.")
    return _numbers(name, x), _integers(name, labels), _integers(name, groups)


def _not_finite(values: np.ndarray) -> np.ndarray:
    """Numbers, from 0, of the rows that hold a NaN or an infinity."""
    if values.dtype.kind != "f" or values.ndim < 1 or values.size == 0:
        return np.array([], dtype=np.int64)
    return np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))


def _places(name: str, content: bytes, wrong: np.ndarray, rows: int) -> str:
    """`lines 3, 17 of the file`: as an editor counts them, where the file is a text with a line for each row."""
    unit, places = "row", wrong + 1
    if name.endswith((".csv", ".csv.gz")):
        filled = [number for number, line in enumerate(content.splitlines(), 1) if line.strip()]
        if len(filled) - rows in (0, 1):  # with a line of column names or without
            unit, places = "line", np.array(filled[len(filled) - rows :])[wrong]
    shown = ", ".join(map(str, places[:_SHOWN])) + (", ..." if len(places) > _SHOWN else "")
    return f"{unit}{'s' if len(places) > 1 else ''} {shown} of the file, counted from 1"


def _read(name: str, content: bytes, options: Options) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    if name.endswith(".npy"):
        if options.labels or options.groups:
            raise UserError(f"{name}: a .npy file holds one array; use .npz, .csv or .parquet for labels or groups.")
        return _load(name, content), None, None
    if name.endswith(".npz"):
        with _load(name, content) as archive:
            if options.array is None:
                raise UserError(f"{name} holds several arrays: set option `array` to one of {', '.join(archive)}.")
            return tuple(_pick(name, archive, key) for key in (options.array, options.labels, options.groups))
    if name.endswith((".csv", ".csv.gz", ".parquet")):
        return _read_table(name, content, options)
    raise UserError(f"{name}: the loader 'array' reads .npy, .npz, .csv, .csv.gz and .parquet.")


def _load(name: str, content: bytes):
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{name} is not an array that can be read without unpickling ({error}).") from error


def _read_table(name: str, content: bytes, options: Options):
    import pandas as pd

    try:
        if name.endswith(".parquet"):
            table = pd.read_parquet(io.BytesIO(content))
        else:
            text = content.decode("utf-8-sig")
            names = _are_names(pd.read_csv(io.StringIO(text), header=None, nrows=1, na_values=_MISSING), options)
            table = pd.read_csv(io.StringIO(text), header=0 if names else None, na_values=_MISSING)
    except (ValueError, OSError) as error:
        raise UserError(f"{name} is not a table that can be read ({error}).") from error
    table.columns = table.columns.map(str)
    asides = [_pick(name, table, key) for key in (options.labels, options.groups)]
    rest = table.drop(columns=[key for key in (options.labels, options.groups) if key is not None])
    if wrong := [column for column in rest if rest[column].dtype.kind not in "biuf"]:
        raise UserError(f"{name}: column '{wrong[0]}' is not numeric: remove it, or name it as `labels` or `groups`.")
    return rest.to_numpy(), asides[0], asides[1]


def _are_names(first, options: Options) -> bool:
    """Whether a table's first line, a frame of one row, names its columns: it holds words and no finite number, or a
    name that the options use. A value that misses, however it is marked, is no word."""
    fields = first.iloc[0]
    words = {str(field) for field in fields if isinstance(field, str)}
    if words & {options.labels, options.groups}:
        return True
    return bool(words) and not any(np.isfinite(field) for field in fields if not isinstance(field, str))


def _pick(name: str, source, key: str | None) -> np.ndarray | None:
    if key is None:
        return None
    if key not in source:
        raise UserError(f"{name} has no '{key}': {nearest(key, map(str, source))}")
    try:
        return np.asarray(source[key])
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"'{key}' in {name} cannot be read without unpickling ({error}).") from error


def _numbers(name: str, x: np.ndarray) -> np.ndarray:
    if x.dtype.kind not in "biuf" or x.ndim < 1:
        raise UserError(f"{name} holds {x.dtype} {x.shape}, not an array of numbers with one row for each example.")
    return x


def _integers(name: str, x: np.ndarray | None) -> np.ndarray | None:
    if x is None:
        return None
    if x.dtype.kind not in "biuf" or x.ndim != 1 or not (x == np.floor(x)).all():
        raise UserError(f"{name}: labels and groups are one column of integers, not {x.dtype} {x.shape}.")
    return x.astype(np.int64)
