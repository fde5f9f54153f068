"""The beginning of a file, as an interrupted download leaves it: `.<file>.part`, continued by the next one.

Beside it, `.<file>.part.json` says what is needed to trust it: the address, the server's mark of that version of the
file (ETag or Last-Modified) and the size. A part that it does not describe is begun anew. One process at a time holds a
part; the system frees it where that process is killed.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dgmbench.data.transfer import Transfer

_POLL_SECONDS = 0.2


class Part:
    """An open part: a stream for the bytes of a download, which counts them in a transfer."""

    def __init__(self, path: Path, transfer: Transfer):
        self.final, self.path = path, path.with_name(f".{path.name}.part")
        self.about_path = self.path.with_name(f"{self.path.name}.json")
        self.transfer = transfer
        self.waited = False  # whether another process had it first
        self._stream = None

    @classmethod
    @contextlib.contextmanager
    def of(cls, path: Path, transfer: Transfer) -> Iterator["Part"]:
        """The part of the file `path`, held until the block ends; it stays where it is not empty."""
        part = cls(path, transfer)
        part._hold()
        try:
            yield part
        finally:
            if part.path.exists() and part._is_mine() and part.size == 0:
                part._remove()
            part._stream.close()

    @property
    def size(self) -> int:
        return os.fstat(self._stream.fileno()).st_size

    def continuing(self, url: str) -> dict[str, Any]:
        """What is known of the file whose beginning is here: url, mark, bytes; empty where `url` cannot continue it."""
        try:
            about = json.loads(self.about_path.read_text())
            whose, mark, total = about["url"], about["mark"], about["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        right = whose == url and isinstance(mark, str | None) and isinstance(total, int | None)
        return about if right and self.size and (total is None or self.size <= total) else {}

    def begin(self, about: dict[str, Any] | None) -> None:
        """Empty the part for a file from its beginning; `about` is what `continuing` will need: url, mark and bytes.

        None where the file cannot be continued.
        """
        self.empty()
        # The old bytes are gone before the new description stands: a kill between the two leaves nothing to mistake.
        if about is not None:
            self.about_path.write_text(json.dumps(about))
        self.transfer.begin(about["bytes"] if about else None)

    def resume(self, total: int | None) -> None:
        """Go on behind the bytes that are here."""
        self._stream.seek(0, os.SEEK_END)
        self.transfer.begin(total, self.size)

    def empty(self) -> None:
        """Drop what is here: it is not the beginning of the file."""
        self._stream.seek(0)
        self._stream.truncate()
        self.about_path.unlink(missing_ok=True)

    def write(self, block: bytes) -> None:
        self.transfer.advance(len(block))
        rest = memoryview(block)
        while rest:
            rest = rest[self._stream.write(rest) :]

    def flush(self) -> None:
        """Nothing is held back: a kill loses no byte that was counted."""

    def keep(self) -> None:
        """Put the part, which is the whole file, into the file's place."""
        os.fsync(self._stream.fileno())
        os.chmod(self.path, 0o644)
        os.replace(self.path, self.final)
        self.about_path.unlink(missing_ok=True)

    def _hold(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            # "w" would drop what is here, "a" could not begin anew. Unbuffered: what a full disk refused is not
            # written again when the part is emptied.
            self._stream = open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "rb+", buffering=0)  # noqa: SIM115
            try:
                while not _lock(self._stream):
                    self.waited = True
                    self.transfer.check()
                    time.sleep(_POLL_SECONDS)
            except BaseException:
                self._stream.close()
                raise
            # Whoever had it may have put it into the file's place, or removed it.
            if self._is_mine():
                return
            self._stream.close()

    def _is_mine(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._stream.fileno()))
        except FileNotFoundError:
            return False

    def _remove(self) -> None:
        self.about_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def remove_part(path: Path) -> None:
    """Remove what interrupted downloads of the file `path` left: it has come from elsewhere."""
    part = Part(path, Transfer(path.name))
    if part.path.exists() or part.about_path.exists():
        with Part.of(path, part.transfer) as held:
            held.empty()


def mark_of(headers: Mapping[str, str]) -> str | None:
    """What `If-Range` takes to mean this version of a file: a strong ETag or the date of its last change."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _lock(stream: Any) -> bool:
    """Whether the part is ours now; true as well where the file system has no locks."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
