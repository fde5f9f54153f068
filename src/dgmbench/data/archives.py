"""Archives from the network, opened as what they are: input that nobody has checked.

Nothing is extracted to disk: members are streamed as bytes, in the archive's order. Refused with one sentence:
a member that would land outside (`..`, absolute, a drive), links and devices, the same name twice, and
archives that expand without bound. An archive inside an archive is a member like any other and is not opened.
"""

import errno
import gzip
import hashlib
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from dgmbench.errors import UserError

_CHUNK = 1 << 20
_DAMAGE = (
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    struct.error,
    ValueError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Limits:
    """How far an archive may expand: bytes in all, times its own size beyond `free` bytes, and members."""

    total: int = 4 << 30
    ratio: int = 250
    free: int = 64 << 20
    members: int = 200_000

    def bytes_for(self, packed: int) -> int:
        return min(self.total, max(self.free, self.ratio * packed))


DEFAULT = Limits()


def is_gzip(path: Path) -> bool:
    return _begins(path, b"\x1f\x8b")


def _begins(path: Path, *magic: bytes) -> bool:
    with open(path, "rb") as stream:
        return stream.read(4).startswith(magic)


def chunks(path: Path, limits: Limits = DEFAULT) -> Iterator[bytes]:
    """The bytes of a file in blocks, decompressed where it is gzip."""
    with _reported(path), _Bounded(path, limits) as stream:
        while block := stream.read(_CHUNK):
            yield block


def open_bytes(path: Path, limits: Limits = DEFAULT) -> bytes:
    """The whole content of a file, decompressed where it is gzip."""
    return b"".join(chunks(path, limits))


def open_text(path: Path, limits: Limits = DEFAULT) -> str:
    """The whole content of a UTF-8 text file, decompressed where it is gzip."""
    try:
        return open_bytes(path, limits).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}.") from error


def members(path: Path, pattern: str = "*", limits: Limits = DEFAULT) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the regular members of a zip, tar or tar.gz whose whole name matches the glob.

    Raises `UserError`, naming the file, where it is no archive, damaged, truncated or refused (see above).
    """
    with _reported(path):
        yield from (_zip_members if _begins(path, b"PK\3\4", b"PK\5\6") else _tar_members)(path, pattern, limits)


def content_sha256(path: Path, pattern: str | None = None, limits: Limits = DEFAULT) -> str:
    """SHA-256 of what a file holds, whatever its container.

    Without a pattern: of its bytes, decompressed where it is gzip. With one: of the lines
    "<member's name> <SHA-256 of the member>\\n", sorted, over the archive's matching members.
    """
    digest = hashlib.sha256()
    if pattern is None:
        for block in chunks(path, limits):
            digest.update(block)
    else:
        lines = [f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in members(path, pattern, limits)]
        digest.update("".join(sorted(lines)).encode())
    return digest.hexdigest()


class _reported:
    """Every way in which a damaged file shows becomes one sentence that names it."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind, error, _trace) -> None:
        # Offsets in a damaged zip can point before the beginning of the file.
        impossible_seek = isinstance(error, OSError) and error.errno == errno.EINVAL
        if isinstance(error, _DAMAGE) or impossible_seek:
            raise UserError(f"{self.path.name} is truncated or damaged ({error}): remove it and fetch it again.")


class _Bounded(io.RawIOBase):
    """A file's content, decompressed where it is gzip, that refuses to expand beyond its limit."""

    def __init__(self, path: Path, limits: Limits):
        self._stream = gzip.open(path) if is_gzip(path) else open(path, "rb")  # noqa: SIM115
        self._name = path.name
        self._allowed = limits.bytes_for(path.stat().st_size) if is_gzip(path) else limits.total
        self._done = 0
        self.tail = b""

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(_CHUNK if size < 0 else min(size, _CHUNK))
        self._done += len(block)
        self.tail = (self.tail + block)[-512:]
        if self._done > self._allowed:
            raise _expands(self._name, self._allowed)
        return block

    def close(self) -> None:
        self._stream.close()
        super().close()


def _tar_members(path: Path, pattern: str, limits: Limits) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    with _Bounded(path, limits) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.isdir():
                    _check_name(path, member.name, set(), limits)
                    continue
                _check_name(path, member.name, seen, limits)
                if not member.isreg() or member.issparse():
                    raise UserError(f"{path.name}: member '{member.name}' is a link, a device or sparse: refused.")
                if fnmatchcase(member.name, pattern):
                    yield member.name, archive.extractfile(member).read()
        while stream.read(_CHUNK):
            pass
        if stream.tail.strip(b"\0") or len(stream.tail) < 512:
            raise tarfile.ReadError("the end of the archive is missing")


def _zip_members(path: Path, pattern: str, limits: Limits) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    allowed, done = limits.bytes_for(path.stat().st_size), 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            _check_name(path, info.orig_filename, seen, limits)
            if info.is_dir():
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise UserError(f"{path.name}: member '{info.filename}' is a link or a device: refused.")
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{path.name}: member '{info.filename}' is encrypted or oddly compressed: refused.")
            done += info.file_size
            if done > allowed:
                raise _expands(path.name, allowed)
            if fnmatchcase(info.filename, pattern):
                yield info.filename, archive.read(info)


def _check_name(path: Path, name: str, seen: set[str], limits: Limits) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise UserError(f"{path.name}: member {name!r} would land outside of the archive's folder: refused.")
    if name in seen:
        raise UserError(f"{path.name}: member {name!r} is there twice: refused.")
    seen.add(name)
    if len(seen) > limits.members:
        raise UserError(f"{path.name} has more than {limits.members:,} members: refused.")


def _expands(name: str, allowed: int) -> UserError:
    return UserError(f"{name} expands to more than {allowed:,} bytes, out of proportion to its size: refused.")
