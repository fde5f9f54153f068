"""Where a dataset's file may come from, how it is brought from there, and what to do where no place has it."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from dgmbench.data import folder
from dgmbench.data.catalogue import Entry, SourceFile, own_checksum, require_packable
from dgmbench.data.download import NotObtained, download
from dgmbench.data.part import Part
from dgmbench.data.room import room
from dgmbench.data.transfer import Transfer
from dgmbench.files import atomic_path
from dgmbench.format import names

Checked = TypeVar("Checked")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """One place that a file may come from.

    Attributes:
        name: how the manifest calls it, without a path of this machine. `shown`: how a message calls it.
        origin: an address, or a path. `members`: the glob of what is packed, where the path is a folder of the user's.
    """

    name: str
    shown: str
    origin: str | Path
    members: str | None = None


@dataclass(frozen=True)
class Sources:
    """What the person allows: mirrors in their order, and the network or not."""

    mirrors: tuple[str, ...]
    offline: bool

    def of(self, found: Entry, file: SourceFile) -> Iterator[Source]:
        """Every place that a file may come from, best first."""
        if file.package is not None:
            spec = find_spec(file.package)
            root = Path(spec.origin).parent if spec and spec.origin else Path("not installed")
            name = f"package {file.package}: {file.path}"
            yield Source(name, name, root / file.path)
        elif file.path is not None:
            own = Path(file.path).expanduser()
            kind, members = ("folder", require_packable(found, file)) if own.is_dir() else ("file", None)
            yield Source(f"own {kind} {own.name}", f"own {kind} {own}", own, members)
        else:
            for mirror in self.mirrors:
                shown = f"mirror {mirror}: {file.mirror}"
                if not _is_address(mirror):
                    yield Source(f"mirror: {file.mirror}", shown, Path(mirror).expanduser() / file.mirror)
                elif not self.offline:
                    yield Source(f"mirror: {file.mirror}", shown, f"{mirror.rstrip('/')}/{file.mirror}")
            if not self.offline:
                yield from (Source(url, url, url) for url in file.urls)

    def failure(self, found: Entry, file: SourceFile, path: Path, problems: list[str]) -> str:
        """The sentence for a file that no place has: what was tried and what to do."""
        tried = list(problems)
        if file.package is not None:
            advice = f"install the version of '{file.package}' that constraints.txt names"
        elif file.path is not None:
            advice = "put the file there, and the line `sha256: <its checksum>` into the entry"
            if line := own_checksum(found, file):
                advice = f"if it was meant to change, write `{line}` and raise `version`"
        else:
            if self.offline:
                folders = any(not _is_address(mirror) for mirror in self.mirrors)
                tried.append(
                    "offline, so no address was asked" + ("" if folders else ", and no folder is set as mirror")
                )
            elif not file.urls:
                tried.append("it has no address")
            advice = self._by_hand(found, file, path)
        return (
            f"file '{file.name}' of dataset '{found.name}' was not fetched: {'; '.join(tried)}. What to do: {advice}."
        )

    def _by_hand(self, found: Entry, file: SourceFile, path: Path) -> str:
        how = [found.obtain.rstrip(".")] if found.obtain else []
        got = f"get it from {' or '.join(file.urls)}" if file.urls else "get a copy of it"
        if self.mirrors:
            said = "which is" if len(self.mirrors) == 1 else "one of"
            below = f"put a right copy at {file.mirror} below `mirror`, {said} {names(self.mirrors)}"
        else:
            below = f"where the network is closed, set `mirror` to a folder or base URL that holds {file.mirror}"
        return "; ".join([*how, f"{got} by other means and put it at {path}", f"or {below}"])


def obtain(source: Source, path: Path, check: Callable[[Path], Checked], transfer: Transfer) -> Checked:
    """Bring a file from one place to `path` and return what `check` makes of it before it takes its place.

    Raises `NotObtained` where the place does not have it or `check` refuses it: nothing is changed then.
    """
    with room(path.parent, lambda: max(transfer.total or 0, transfer.done)):
        if isinstance(source.origin, str):
            return _download(source.origin, path, check, transfer)
        with atomic_path(path) as temporary:
            _copy(source, temporary, transfer)
            return check(temporary)


def _download(url: str, path: Path, check: Callable[[Path], Checked], transfer: Transfer) -> Checked:
    with Part.of(path, transfer) as part:
        if part.waited and path.is_file():
            try:
                return check(path)  # whoever had the part has fetched it
            except NotObtained:
                pass
        try:
            # The second time where a beginning was not that of this file, whatever the server said of it.
            for last in (False, True):
                continued = download(url, part)
                try:
                    checked = check(part.path)
                except NotObtained:
                    part.empty()
                    if last or not continued:
                        raise
                else:
                    part.keep()
                    return checked
        except OSError:
            part.empty()  # a full disk gets its room back
            raise
    raise AssertionError("the last turn returns or raises")


def _copy(source: Source, destination: Path, transfer: Transfer) -> None:
    if source.members is not None:
        found = folder.matching(source.origin, source.members)
        transfer.begin(sum(path.stat().st_size for path in found.values()))
        folder.pack(found, destination, transfer.advance)
        return
    if not source.origin.is_file():
        raise NotObtained("no such file")
    if not os.access(source.origin, os.R_OK):
        raise NotObtained("no permission to read it")
    transfer.begin(source.origin.stat().st_size)
    with open(source.origin, "rb") as stream, open(destination, "wb") as copy:
        shutil.copyfileobj(stream, _Counting(copy, transfer), _BLOCK)


class _Counting:
    """A stream that tells a transfer what is written to it."""

    def __init__(self, stream, transfer: Transfer):
        self.stream, self.transfer = stream, transfer

    def write(self, block: bytes) -> int:
        self.transfer.advance(len(block))
        return self.stream.write(block)


def _is_address(mirror: str) -> bool:
    return mirror.startswith(("http://", "https://"))
