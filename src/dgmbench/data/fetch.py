"""Fetch datasets' files into data/raw/<name>/, verify them and write down in a manifest what they are.

A file is there whole and verified, or not at all: it is written beside its place, checked and renamed. Sources
are tried in order: what lies there already, the mirrors, the canonical addresses. A download that is interrupted
leaves its beginning in `.<file>.part`, and the next fetch continues it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dgmbench.data import archives
from dgmbench.data.catalogue import Entry, SourceFile, entry, require_checksum
from dgmbench.data.download import NotObtained
from dgmbench.data.part import remove_part
from dgmbench.data.room import room
from dgmbench.data.sources import Sources, obtain
from dgmbench.data.transfer import Display, NoDisplay, Transfer, side_by_side
from dgmbench.errors import UserError
from dgmbench.files import md5_file, read_json, sha256_file, write_json

MANIFEST = "manifest.json"
JOBS = 4


@dataclass(frozen=True)
class Measured:
    """What a file turned out to be."""

    bytes: int
    sha256: str
    content_sha256: str | None  # None where the file cannot be opened as what it should be
    matched: tuple[str, ...]  # which of the catalogue's checksums it has: "sha256", "content_sha256", "md5"


@dataclass(frozen=True)
class Fetched:
    """A dataset that was asked for: its folder and the manifest's rows, or why a file of it could not be had."""

    name: str
    folder: Path
    rows: tuple[dict, ...] = ()
    error: str | None = None


def fetch(
    name: str,
    destination: Path = Path("data/raw"),
    *,
    mirror: str | Sequence[str] | None = None,
    offline: bool = False,
    jobs: int = JOBS,
    display: Display | None = None,
) -> Path:
    """Bring every file of a dataset to `destination`/<name>/ and return that folder; arguments as of `fetch_all`.

    Raises `UserError` for the first file that cannot be had or does not have a known checksum; the others are fetched.
    """
    (result,) = fetch_all([name], destination, mirror=mirror, offline=offline, jobs=jobs, display=display)
    if result.error is not None:
        raise UserError(result.error)
    return result.folder


def fetch_all(
    names: Iterable[str],
    destination: Path = Path("data/raw"),
    *,
    mirror: str | Sequence[str] | None = None,
    offline: bool = False,
    jobs: int = JOBS,
    display: Display | None = None,
) -> list[Fetched]:
    """Bring the files of many datasets to `destination`/<name>/, `jobs` files at a time.

    Args:
        mirror: folders or base URLs that hold the files under the paths that the catalogue gives, best first.
        offline: use no network: only files already there, packages, the user's own and mirrors that are folders.

    A dataset that could not be had whole has no manifest and an error: that of its first file, in the catalogue's
    order. Raises `UserError` for names that the catalogue does not have.
    """
    found = [entry(name) for name in dict.fromkeys(names)]
    sources = Sources((mirror,) if isinstance(mirror, str) else tuple(mirror or ()), offline)
    todo = [(dataset, file) for dataset in found for file in dataset.files]
    before = {dataset.name: _sources_before(Path(destination) / dataset.name) for dataset in found}

    def work(index: int, transfer: Transfer) -> dict:
        dataset, file = todo[index]
        folder = Path(destination) / dataset.name
        return _fetch_file(dataset, file, folder / file.name, before[dataset.name].get(file.name), sources, transfer)

    transfers = [Transfer(f"{dataset.name}/{file.name}") for dataset, file in todo]
    results = iter(side_by_side(work, transfers, jobs, display or NoDisplay()))
    return [_finish(dataset, Path(destination), [next(results) for _ in dataset.files]) for dataset in found]


def measure(path: Path, file: SourceFile) -> Measured:
    """Size and checksums of a file, and which of the known ones they are."""
    sha256 = sha256_file(path)
    try:
        content = archives.content_sha256(path, file.members)
    except UserError:
        content = None
    known = {"sha256": sha256 in file.sha256, "content_sha256": content is not None and content == file.content_sha256}
    known["md5"] = file.md5 is not None and md5_file(path) == file.md5
    return Measured(path.stat().st_size, sha256, content, tuple(name for name, same in known.items() if same))


def _finish(found: Entry, destination: Path, results: list[dict | BaseException]) -> Fetched:
    """Write the manifest of a dataset whose files are all there."""
    folder = destination / found.name
    wrong = [result for result in results if isinstance(result, BaseException)]
    if unexpected := [error for error in wrong if not isinstance(error, UserError)]:
        raise unexpected[0]
    if wrong:
        more = f" ({len(wrong) - 1} more of its files were not fetched either.)" if len(wrong) > 1 else ""
        return Fetched(found.name, folder, error=f"{wrong[0]}{more}")
    manifest = {"name": found.name, "version": found.version, "files": results}
    # An unchanged manifest keeps its time stamp, so that nothing downstream looks out of date.
    if _read_manifest(folder) != manifest:
        folder.mkdir(parents=True, exist_ok=True)
        with room(folder, lambda: len(str(manifest))):
            write_json(folder / MANIFEST, manifest)
    return Fetched(found.name, folder, tuple(results))


def _read_manifest(folder: Path) -> dict | None:
    try:
        return read_json(folder / MANIFEST)
    except (FileNotFoundError, ValueError):
        return None


def _sources_before(folder: Path) -> dict[str, str]:
    try:
        return {row["file"]: row["source"] for row in _read_manifest(folder)["files"]}
    except (KeyError, TypeError):
        return {}


def _fetch_file(
    found: Entry, file: SourceFile, path: Path, source_before: str | None, sources: Sources, transfer: Transfer
) -> dict:
    require_checksum(found, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and (measured := measure(path, file)).matched:
        transfer.begin(measured.bytes, measured.bytes)
        remove_part(path)
        return _row(file, measured, source_before or "already there")
    check = _checker(file)
    problems: list[str] = []
    for source in sources.of(found, file):
        try:
            measured = obtain(source, path, check, transfer)
        except NotObtained as error:
            problems.append(f"{source.shown}: {error}")
        else:
            remove_part(path)
            return _row(file, measured, source.name)
    raise UserError(sources.failure(found, file, path, problems))


def _checker(file: SourceFile) -> Callable[[Path], Measured]:
    def check(path: Path) -> Measured:
        measured = measure(path, file)
        if not measured.matched:
            raise NotObtained(_mismatch(file, measured))
        return measured

    return check


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
    if file.md5:
        expected.append(f"md5 {file.md5}")
    content = measured.content_sha256 or "none, it cannot be opened"
    found = f"sha256 {measured.sha256}" + (f" (content sha256 {content})" if file.content_sha256 else "")
    return f"not the file that is expected: {measured.bytes:,} bytes with {found}, expected {' or '.join(expected)}"
