"""A full disk: noticed before or while writing, and told with the folder and the bytes that it needs."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dgmbench.errors import UserError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def room(folder: Path, needed: Callable[[], int]) -> Iterator[None]:
    """Turn "no space left on device" inside the block into a `UserError`; `needed` gives the bytes to hold."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(folder).free if folder.is_dir() else 0
        raise UserError(
            f"no space left while writing to {folder}: about {needed():,} bytes are needed there and {free:,} are "
            "free; make room or choose another folder. Nothing half-written was kept."
        ) from error


def reserve(path: Path, size: int) -> None:
    """Claim `size` bytes on disk for a file, so that a full disk is an error here and not a SIGBUS in a memory map."""
    with open(path, "ab") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
            return
        missing = size - stream.tell()
        block = bytes(1 << 20)
        while missing > 0:
            missing -= stream.write(block[:missing])
