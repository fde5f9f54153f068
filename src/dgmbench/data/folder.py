"""A folder of the user's own as one source file: its matching files in a zip that is the same wherever it is packed.

Members are stored, not compressed, sorted by their names relative to the folder, with one date and one mode. Which
files count is a glob over the whole relative name, as for an archive's members, so `*.png` reaches into subfolders.
"""

import hashlib
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from dgmbench.data.archives import DEFAULT, Limits
from dgmbench.errors import UserError

_BLOCK = 1 << 20
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_MODE = stat.S_IFREG | 0o644


def matching(folder: Path, pattern: str, limits: Limits = DEFAULT) -> dict[str, Path]:
    """The files of a folder whose relative name matches the glob, by that name, in the order of the names.

    Raises `UserError` where there is none, for links among them, for names that an archive cannot hold, and for more
    than an archive may hold.
    """
    found, size = {}, 0
    for name, path, bytes_ in _walk(Path(folder), "", pattern):
        found[name] = path
        size += bytes_
        if len(found) > limits.members or size > limits.total:
            raise UserError(
                f"{folder} holds more than {limits.members:,} files or {limits.total:,} bytes that match '{pattern}': "
                "choose fewer, or smaller ones."
            )
    if not found:
        raise UserError(f"no file of {folder} matches '{pattern}': write a glob that does in `members`.")
    return dict(sorted(found.items()))


def content_sha256(folder: Path, pattern: str) -> str:
    """What `archives.content_sha256` gives for the packed folder, without packing it."""
    lines = []
    for name, path in matching(folder, pattern).items():
        with _reading(path) as stream:
            lines.append(f"{name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def pack(files: dict[str, Path], destination: Path, advance: Callable[[int], None] = lambda _: None) -> None:
    """Write files, by their names, to the zip `destination`, block by block; `advance` is told the bytes of each."""
    with zipfile.ZipFile(destination, "w", zipfile.ZIP_STORED) as archive:
        for name, path in files.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system, info.external_attr = 3, _MODE << 16
            info.file_size = path.stat().st_size
            with _reading(path) as source, archive.open(info, "w") as member:
                while block := source.read(_BLOCK):
                    advance(len(block))
                    member.write(block)


def _walk(folder: Path, prefix: str, pattern: str) -> Iterator[tuple[str, Path, int]]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): correct its permissions.") from error
    for entry in entries:
        name, path = prefix + entry.name, Path(entry.path)
        if entry.is_symlink() and (fnmatchcase(name, pattern) or entry.is_dir()):
            raise UserError(f"{path} is a symbolic link, which is not followed: put what it points to there.")
        if entry.is_dir():
            yield from _walk(path, f"{name}/", pattern)
        elif fnmatchcase(name, pattern):
            if not entry.is_file():
                raise UserError(f"{path} is not a regular file: remove it or write a glob that leaves it out.")
            _require_portable(name, path)
            yield name, path, entry.stat().st_size


def _require_portable(name: str, path: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"the name of {str(path)!r} is not UTF-8: rename the file.") from None
    if "\\" in name or ":" in name.partition("/")[0]:
        raise UserError(f"the name of {path} has a backslash or a colon, which archives refuse: rename it.")


def _reading(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): correct its permissions.") from error
