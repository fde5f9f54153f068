"""Files of Unix `compress` (.Z), expanded within a bound.

Reference: T. A. Welch, "A Technique for High-Performance Data Compression", IEEE Computer 17 (1984).
"""

import io
from pathlib import Path

import ncompress

from dgmbench.data.archives import DEFAULT, Limits
from dgmbench.errors import UserError

_MAGIC = b"\x1f\x9d"


def is_lzw(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == _MAGIC


def expand(name: str, packed: bytes, limits: Limits = DEFAULT) -> bytes:
    """What a .Z file holds.

    The format has neither a checksum nor a mark at its end, so that a file that was cut short can expand to less
    without a complaint: check what comes out. Raises `UserError`, naming the file, where it is damaged or expands
    beyond the limits.
    """
    content = _Bounded(name, limits.bytes_for(len(packed)))
    try:
        ncompress.decompress(io.BytesIO(packed), content)
    except ValueError as error:
        raise UserError(f"{name} is truncated or damaged ({error}): remove it and fetch it again.") from error
    return content.getvalue()


class _Bounded(io.BytesIO):
    """Takes what the decoder writes, block by block, and refuses more than is allowed."""

    def __init__(self, name: str, allowed: int):
        super().__init__()
        self._name, self._allowed = name, allowed

    def write(self, block: bytes) -> int:
        if self.tell() + len(block) > self._allowed:
            raise UserError(f"{self._name} expands to more than {self._allowed:,} bytes, out of proportion: refused.")
        return super().write(block)
