"""Fetch a dataset's files into data/raw/<name>/, verify them and write down in a manifest what they are.

A file is there whole and verified, or not at all: it is written beside its place, checked and renamed. Sources
are tried in order: what lies there already, the mirror, the canonical addresses.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dgmbench.data import archives
from dgmbench.data.catalogue import Entry, SourceFile, entry, require_checksum
from dgmbench.data.download import NotObtained, download
from dgmbench.data.room import room
from dgmbench.errors import UserError
from dgmbench.files import atomic_path, read_json, sha256_file, write_json
from dgmbench.progress import NoProgress, Progress

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Measured:
    """What a file turned out to be."""

    bytes: int
    sha256: str
    content_sha256: str | None  # None where the file cannot be opened as what it should be
    matched: tuple[str, ...]  # which of the catalogue's checksums it has: "sha256", "content_sha256"


def fetch(
    name: str,
    destination: Path = Path("data/raw"),
    *,
    mirror: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Bring every file of a dataset to `destination`/<name>/ and return that folder.

    Args:
        mirror: a folder or base URL that holds the files under the paths that the catalogue gives.
        offline: use no network: only files already there, packages, the user's own and a mirror's folder.

    Raises `UserError` for the first file that cannot be had or does not have a known checksum.
    """
    found = entry(name)
    folder = Path(destination) / name
    folder.mkdir(parents=True, exist_ok=True)
    before = _sources_before(folder)
    rows = []
    with (progress or NoProgress()).task(f"fetch {name}", total=len(found.files), unit="file") as task:
        for file in found.files:
            require_checksum(found, file)
            rows.append(_fetch_file(found, file, folder / file.name, before.get(file.name), mirror, offline))
            task.advance()
    manifest = {"name": name, "version": found.version, "files": rows}
    # An unchanged manifest keeps its time stamp, so that nothing downstream looks out of date.
    if not before or read_json(folder / MANIFEST) != manifest:
        with room(folder, lambda: len(str(manifest))):
            write_json(folder / MANIFEST, manifest)
    return folder


def measure(path: Path, file: SourceFile) -> Measured:
    """Size and checksums of a file, and which of the known ones they are."""
    sha256 = sha256_file(path)
    try:
        content = archives.content_sha256(path, file.members)
    except UserError:
        content = None
    known = {"sha256": sha256 in file.sha256, "content_sha256": content is not None and content == file.content_sha256}
    return Measured(path.stat().st_size, sha256, content, tuple(name for name, same in known.items() if same))


def _sources_before(folder: Path) -> dict[str, str]:
    if not (folder / MANIFEST).is_file():
        return {}
    try:
        return {row["file"]: row["source"] for row in read_json(folder / MANIFEST)["files"]}
    except (ValueError, KeyError, TypeError):
        return {}


def _fetch_file(
    found: Entry, file: SourceFile, path: Path, source_before: str | None, mirror: str | None, offline: bool
) -> dict:
    if path.is_file() and (measured := measure(path, file)).matched:
        return _row(file, measured, source_before or "already there")
    problems: list[str] = []
    for source, origin in _origins(file, mirror, offline):
        try:
            return _row(file, _obtain(file, origin, path), source)
        except NotObtained as error:
            problems.append(f"{source}: {error}")
    raise UserError(_failure(found, file, problems, mirror, offline))


def _obtain(file: SourceFile, origin: str | Path, path: Path) -> Measured:
    sizes = [0]
    # An exception leaves `atomic_path` before the rename: a wrong file never takes the place of a right one.
    with room(path.parent, lambda: max(sizes)), atomic_path(path) as temporary:
        if isinstance(origin, str):
            download(origin, temporary, sizes.append)
        elif not origin.is_file():
            raise NotObtained("no such file")
        elif not os.access(origin, os.R_OK):
            raise NotObtained("no permission to read it")
        else:
            sizes.append(origin.stat().st_size)
            shutil.copyfile(origin, temporary)
        measured = measure(temporary, file)
        if not measured.matched:
            raise NotObtained(_mismatch(file, measured))
        return measured


def _origins(file: SourceFile, mirror: str | None, offline: bool) -> Iterator[tuple[str, str | Path]]:
    """(how a manifest names it, address or path) of every place that a file may come from, best first."""
    if file.package is not None:
        spec = find_spec(file.package)
        root = Path(spec.origin).parent if spec and spec.origin else Path("not installed")
        yield f"package {file.package}: {file.path}", root / file.path
    elif file.path is not None:
        yield f"own file {Path(file.path).name}", Path(file.path).expanduser()
    else:
        if mirror is not None and mirror.startswith(("http://", "https://")):
            if not offline:
                yield f"mirror: {file.mirror}", f"{mirror.rstrip('/')}/{file.mirror}"
        elif mirror is not None:
            yield f"mirror: {file.mirror}", Path(mirror).expanduser() / file.mirror
        if not offline:
            yield from ((url, url) for url in file.urls)


def _row(file: SourceFile, measured: Measured, source: str) -> dict:
    return {
        "file": file.name,
        "bytes": measured.bytes,
        "sha256": measured.sha256,
        "content_sha256": measured.content_sha256,
        "matched": list(measured.matched),
        "source": source,
    }


def _mismatch(file: SourceFile, measured: Measured) -> str:
    expected = [f"sha256 {value}" for value in file.sha256]
    if file.content_sha256:
        expected.append(f"content sha256 {file.content_sha256}")
    content = measured.content_sha256 or "none, it cannot be opened"
    found = f"sha256 {measured.sha256}" + (f" (content sha256 {content})" if file.content_sha256 else "")
    return f"not the file that is expected: {measured.bytes:,} bytes with {found}, expected {' or '.join(expected)}"


def _failure(found: Entry, file: SourceFile, problems: list[str], mirror: str | None, offline: bool) -> str:
    tried = "; ".join(problems) or ("offline, and no folder is set as mirror" if offline else "it has no address")
    if file.package is not None:
        advice = f"install the version of '{file.package}' that constraints.txt names"
    elif file.path is not None:
        own = Path(file.path).expanduser()
        advice = "put the file there, and the line `sha256: <its checksum>` into the entry"
        if own.is_file():
            advice = f"if the file was meant to change, write `sha256: {sha256_file(own)}` and raise `version`"
    elif mirror is None:
        advice = f"where the network is closed, set `mirror` to a folder or base URL that holds {file.mirror}"
    else:
        advice = f"put a right copy at {file.mirror} below `mirror`, which is {mirror}"
    return f"file '{file.name}' of dataset '{found.name}' was not fetched: {tried}. What to do: {advice}."
