"""Numeric matrices of a MATLAB 5 file, from a file that nobody has checked.

    header       116 bytes of text, 8 unused, version 0x0100, "IM" (little-endian) or "MI" (big-endian)
    elements     a tag (type, bytes), then the bytes: a matrix, or a zlib stream that holds one
    matrix       elements again, each padded to 8 bytes: flags with the class, dimensions, name, values

The library that reads the matrices trusts the sizes that a file declares. So every size of a wanted matrix is held
against what is there first, and the library is handed a file of nothing but checked, decompressed elements. Nothing
is ever unpickled or evaluated: cells, structures, objects, functions, text and sparse matrices are refused.

Reference: The MathWorks, "MAT-File Format" (the level 5 part).
"""

import io
import math
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io

from dgmbench.data.archives import Limits
from dgmbench.errors import UserError

_LIMITS = Limits(total=256 << 20, members=10_000)
_MATRIX, _COMPRESSED = 14, 15
_INT8, _INT32, _UINT32 = 1, 5, 6
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_NUMERIC = range(6, 16)
_OTHER = {1: "a cell array", 2: "a structure", 3: "an object", 4: "text", 5: "a sparse matrix", 16: "a function"}
_COMPLEX = 0x0800
_HEAD = 1024  # bytes of a matrix that hold its flags, dimensions and name, at most 63 characters


@dataclass(frozen=True)
class _Element:
    kind: int
    start: int  # of the bytes after the tag
    size: int
    end: int  # where the next element begins


def arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The named matrices of real numbers, each (rows, columns, ...), in the type that they are stored in.

    Raises `UserError`, naming the file, where it is of another version, truncated, damaged or expands out of
    proportion, and where a name is missing, there twice or not a full matrix of real numbers. No more than 1 GB
    is allocated, whatever the file says.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        order = _byte_order(path, stream.read(132), size)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = {}
            for name, matrix in _matrices(path, content, order, names):
                if name in found:
                    raise UserError(f"{path.name} holds the variable '{name}' twice: refused.")
                found[name] = _read(path, content[:128], matrix, name)
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{path.name} has no variable '{missing[0]}': it is not the file that is expected.")
    return found


def _byte_order(path: Path, header: bytes, size: int) -> str:
    """The byte order of a level 5 file, "<" or ">"; every other file is refused."""
    orders = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
    newer = header.startswith(b"\x89HDF") or header[124:128] in (b"\x00\x02IM", b"\x02\x00MI")
    if newer:
        raise UserError(f"{path.name} is a MATLAB 7.3 file (HDF5): save it again with `save -v7`.")
    if size > _LIMITS.total:
        raise UserError(f"{path.name} has {size:,} bytes, more than the {_LIMITS.total:,} of a MATLAB file: refused.")
    if len(header) < 132 or header[124:128] not in orders or 0 in header[:4]:
        raise UserError(f"{path.name} is not a MATLAB 5 file (MATLAB 4 is not read): fetch it again.")
    return orders[header[124:128]]


def _matrices(path: Path, content: mmap.mmap, order: str, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """(name, decompressed element) of every wanted variable, checked throughout."""
    at, allowed, elements = 128, _LIMITS.bytes_for(len(content)), 0
    while at < len(content):
        elements += 1
        if elements > _LIMITS.members:
            raise UserError(f"{path.name} has more than {_LIMITS.members:,} variables: refused.")
        outer = _element(path, content, at, order, len(content))
        matrix = content[at : outer.start + min(outer.size, _HEAD)]
        if outer.kind == _COMPRESSED:
            matrix = _inflate(path, content[outer.start : outer.end], _HEAD)
        at = outer.end
        if _name(path, matrix, order) not in names:
            continue
        inner = _element(path, matrix, 0, order, allowed)
        allowed -= inner.size
        if outer.kind == _COMPRESSED:
            matrix = _inflate(path, content[outer.start : outer.end], inner.end, whole=True)
        else:
            matrix = content[outer.start - 8 : outer.end]
        yield _check(path, matrix, order), matrix


def _element(path: Path, content, at: int, order: str, limit: int) -> _Element:
    """The element whose tag is at `at`; one that would end after `limit` is refused."""
    if at + 8 > len(content):
        raise _damaged(path, "a tag is cut off")
    kind, size = struct.unpack(f"{order}II", content[at : at + 8])
    if kind >> 16:  # up to four bytes lie inside the tag
        element = _Element(kind & 0xFFFF, at + 4, kind >> 16, at + 8)
        whole = element.size <= 4
    else:
        padding = 0 if kind == _COMPRESSED else -size % 8
        element = _Element(kind, at + 8, size, at + 8 + size + padding)
        whole = element.end <= limit
    if not whole:
        raise _damaged(path, f"an element of {element.size:,} bytes is declared, more than there can be")
    return element


def _inflate(path: Path, packed: bytes, size: int, whole: bool = False) -> bytes:
    """The first `size` bytes of a zlib stream; with `whole`, exactly those and a right checksum."""
    stream = zlib.decompressobj()
    try:
        matrix = stream.decompress(packed, size)
        rest = stream.decompress(stream.unconsumed_tail, 1) if whole and not stream.eof else b""
    except zlib.error as error:
        raise _damaged(path, str(error)) from error
    if whole and (len(matrix) < size or rest or not stream.eof):
        raise _damaged(path, "a compressed element has not the size that it declares")
    return matrix


def _parts(path: Path, matrix: bytes, order: str) -> tuple[int, tuple[int, ...], str, int]:
    """Class, dimensions and name of a matrix, and where its values begin; it may be cut off after those."""
    outer = _element(path, matrix, 0, order, 1 << 32)
    flags = _element(path, matrix, 8, order, len(matrix))
    sides = _element(path, matrix, flags.end, order, len(matrix))
    label = _element(path, matrix, sides.end, order, len(matrix))
    kinds = (outer.kind, flags.kind, sides.kind, label.kind)
    if kinds != (_MATRIX, _UINT32, _INT32, _INT8) or flags.size != 8 or sides.size % 4 or not 8 <= sides.size <= 128:
        raise _damaged(path, "an element is not laid out as a matrix")
    word = struct.unpack(f"{order}I", matrix[flags.start : flags.start + 4])[0]
    shape = struct.unpack(f"{order}{sides.size // 4}i", matrix[sides.start : sides.start + sides.size])
    return word, shape, matrix[label.start : label.start + label.size].decode("latin-1"), label.end


def _name(path: Path, head: bytes, order: str) -> str:
    """The name of a matrix, "" for the nameless objects that MATLAB keeps beside them."""
    outer = _element(path, head, 0, order, 1 << 32)
    if outer.kind != _MATRIX:
        raise _damaged(path, f"an element of type {outer.kind} is not a matrix")
    if len(head) >= 24 and head[16 if order == "<" else 19] == 17:
        return ""
    return _parts(path, head, order)[2]


def _check(path: Path, matrix: bytes, order: str) -> str:
    """Hold what a whole matrix declares against what is there, and return its name."""
    word, shape, name, at = _parts(path, matrix, order)
    kind = word & 0xFF
    if kind not in _NUMERIC or word & _COMPLEX:
        what = _OTHER.get(kind, "no matrix of real numbers") if not word & _COMPLEX else "complex"
        raise UserError(f"{path.name}: variable '{name}' is {what}: only full matrices of real numbers are read.")
    values = _element(path, matrix, at, order, len(matrix))
    if min(shape) < 0 or values.kind not in _ITEM_BYTES or values.end != len(matrix):
        raise _damaged(path, f"variable '{name}' is not laid out as a matrix")
    if math.prod(shape) * _ITEM_BYTES[values.kind] != values.size:
        raise _damaged(path, f"variable '{name}' declares {shape}, but holds {values.size:,} bytes")
    return name


def _read(path: Path, header: bytes, matrix: bytes, name: str) -> np.ndarray:
    try:
        array = scipy.io.loadmat(io.BytesIO(header + matrix), variable_names=[name])[name]
    except Exception as error:  # whatever a library of another hand raises on a file of another hand
        raise _damaged(path, str(error)) from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path.name} is truncated or damaged ({what}): remove it and fetch it again.")
