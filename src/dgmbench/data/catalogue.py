"""The catalogue: one YAML file for each dataset, saying where its files are, what they must hash to and who owns them.

    name: digits                 the file's stem
    loader: digits               data/datasets/digits.py
    options: {}                  the loader's options that this entry sets
    files:
      - name: digits.csv.gz
        package: sklearn         or urls + mirror, or a path of your own: a file, or a folder with `members`
        path: datasets/data/digits.csv.gz
        sha256: 09f66e6d...

A dataset is asked for by name and options; `resolve` turns both into an identity without touching any data.
"""

import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from dgmbench.data import folder
from dgmbench.data.loading import SPLITS, Description, Loader
from dgmbench.data.transforms import Step, check_space
from dgmbench.errors import UserError, nearest
from dgmbench.files import sha256_file, short_hash
from dgmbench.fingerprint import code_fingerprint

CATALOGUE = Path(__file__).parent / "catalogue"
LOADERS = "dgmbench.data.datasets"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$")]
Line = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class SourceFile(BaseModel):
    """One file as it comes from its origin: the network, an installed Python package, or a path of the user's."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: FileName = Field(description="File name below data/raw/<dataset>/.")
    urls: list[str] = Field([], description="Canonical addresses, tried in order.")
    mirror: str | None = Field(None, description="Path of the file below the mirror's folder or base URL.")
    package: str | None = Field(None, description="Installed Python package that ships the file.")
    path: str | None = Field(
        None,
        description="Path inside the package; without one, a path of the user's, absolute or from the working folder: "
        "a file, or a folder whose files that match 'members' are packed into 'name', a zip.",
    )
    sha256: list[Sha256] = Field([], description="Known checksums of the file as fetched.")
    content_sha256: Sha256 | None = Field(None, description="Checksum of what is inside, whatever the container.")
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = Field(
        None, description="Checksum of a file of which no better one was published; needs an https address."
    )
    members: str | None = Field(
        None, description="For archives and folders: the glob of the members that count as content."
    )

    @field_validator("sha256", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> "SourceFile":
        remote = bool(self.urls) or self.mirror is not None
        if remote == (self.path is not None) or (self.package is not None and self.path is None):
            raise ValueError("needs exactly one origin: 'urls' with 'mirror', 'package' with 'path', or 'path' alone")
        if remote and self.mirror is None:
            raise ValueError("has 'urls' but no 'mirror': the file's path below a mirror's folder")
        if self.mirror is not None and (self.mirror.startswith("/") or ".." in Path(self.mirror).parts):
            raise ValueError("'mirror' must be a path below the mirror, without a leading '/' or '..'")
        if bad := [url for url in self.urls if not url.startswith(("https://", "http://"))]:
            raise ValueError(f"'urls' must be http or https addresses, not '{bad[0]}'")
        if not self.is_local and not (self.sha256 or self.content_sha256 or self.md5):
            raise ValueError("needs 'sha256' or 'content_sha256' (or 'md5', where nothing else was published)")
        if self.md5 and (self.sha256 or self.content_sha256):
            raise ValueError("has 'md5' beside a better checksum: remove 'md5'")
        if self.md5 and not all(url.startswith("https://") for url in self.urls):
            raise ValueError("has only 'md5', which can be forged: its 'urls' must begin with https://")
        if len(self.sha256) > 1 and self.content_sha256 is None:
            raise ValueError("has several 'sha256': add 'content_sha256', so that every container means the same data")
        return self

    @property
    def is_local(self) -> bool:
        """Whether the file is the user's own."""
        return self.path is not None and self.package is None

    @property
    def identity(self) -> str:
        """The checksum that stands for the file's content, however it is packed."""
        return self.content_sha256 or (f"md5 {self.md5}" if self.md5 else self.sha256[0])


class Entry(BaseModel):
    """One dataset of the catalogue."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Name
    title: Line
    version: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+-]+$")]
    description: Line
    licence: Line
    citation: Line
    homepage: Line
    obtain: Line | None = Field(None, description="How to get the files by hand, said where they cannot be fetched.")
    files: list[SourceFile] = []
    loader: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    options: dict[str, Any] = {}
    space: list[Step] | None = Field(None, description="Steps from integer pixels to the values, for bits per pixel.")

    @model_validator(mode="after")
    def _distinct_files(self) -> "Entry":
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            raise ValueError("two files have the same name")
        return self

    @field_validator("space")
    @classmethod
    def _coded(cls, space: list[Step] | None) -> list[Step] | None:
        if space is not None:
            check_space(space)
        return space


@dataclass(frozen=True)
class DatasetRef:
    """A dataset that was asked for: name, complete options and the identity of exactly that."""

    name: str
    options: dict[str, Any]
    identity: str

    @property
    def key(self) -> str:
        return f"{self.name}-{self.identity}"


def entries() -> dict[str, Entry]:
    """Every dataset of the catalogue, by name."""
    return {path.stem: _read(path) for path in sorted(CATALOGUE.glob("*.yaml"))}


def entry(name: str) -> Entry:
    """One dataset of the catalogue; `UserError` with the nearest name where there is none."""
    paths = {path.stem: path for path in CATALOGUE.glob("*.yaml")}
    if name not in paths:
        raise UserError(f"there is no dataset '{name}': {nearest(name, paths)}")
    return _read(paths[name])


def loader(name: str) -> Loader:
    """The module of a loader; `UserError` with the nearest name where there is none."""
    known = {path.stem for path in Path(__file__).parent.joinpath("datasets").glob("*.py")} - {"__init__"}
    if name not in known:
        raise UserError(f"there is no loader '{name}' in data/datasets: {nearest(name, known)}")
    return importlib.import_module(f"{LOADERS}.{name}")


def resolve(name: str, options: dict[str, Any] | None = None) -> DatasetRef:
    """A dataset with complete options and its identity; needs no data.

    Raises `UserError` for an unknown name, an unknown option or a value out of range.
    """
    found = entry(name)
    module = loader(found.loader)
    chosen = {**found.options, **(options or {})}
    if unknown := sorted(chosen.keys() - module.Options.model_fields.keys()):
        known = module.Options.model_fields
        raise UserError(
            f"dataset '{name}' has no option '{unknown[0]}': {nearest(str(unknown[0]), known)}"
            if known
            else f"dataset '{name}' has no options: remove '{unknown[0]}'."
        )
    try:
        complete = module.Options(**chosen).model_dump(mode="json")
    except ValidationError as error:
        raise UserError(f"dataset '{name}': {_first_problem(error)}") from error
    for file in found.files:
        require_checksum(found, file)
    content = {file.name: file.identity for file in found.files}
    code = code_fingerprint(f"{LOADERS}.{found.loader}")
    identity = short_hash([name, found.version, content, complete, code], length=8)
    return DatasetRef(name, complete, identity)


def describe(ref: DatasetRef) -> Description:
    """Kind of values and shape of an example of a dataset; needs no data."""
    module = loader(entry(ref.name).loader)
    return module.describe(module.Options(**ref.options))


def space(name: str) -> tuple[Step, ...]:
    """The steps from a dataset's integer pixels to its values; empty where its entry names none."""
    return tuple(entry(name).space or ())


def splits(ref: DatasetRef) -> tuple[str, ...]:
    """Which splits a dataset has with these options; needs no data."""
    module = loader(entry(ref.name).loader)
    tell = getattr(module, "splits", None)
    return SPLITS if tell is None else tuple(tell(module.Options(**ref.options)))


def require_checksum(found: Entry, file: SourceFile) -> None:
    """A user's own file or folder must be pinned too: without a checksum, the error gives the line to paste."""
    if file.sha256 or file.content_sha256 or file.md5:
        return
    line = own_checksum(found, file) or "sha256: <checksum of the file>"
    raise UserError(f"file '{file.name}' of dataset '{found.name}' has no checksum: add the line `{line}` to it.")


def own_checksum(found: Entry, file: SourceFile) -> str | None:
    """The line that pins a user's own file or folder as it is now; None where there is neither.

    Raises `UserError` where a folder's entry does not say what to pack from it.
    """
    path = Path(file.path).expanduser()
    if path.is_dir():
        return f"content_sha256: {folder.content_sha256(path, require_packable(found, file))}"
    return f"sha256: {sha256_file(path)}" if path.is_file() else None


def require_packable(found: Entry, file: SourceFile) -> str:
    """The glob of the files that are packed from a folder of the user's; `UserError` where the entry lacks it."""
    if file.members is None or not file.name.endswith(".zip"):
        raise UserError(
            f"file '{file.name}' of dataset '{found.name}' is packed from a folder: give it a name that ends in .zip, "
            'and the files to pack as a glob, like `members: "*.png"`.'
        )
    return file.members


def _read(path: Path) -> Entry:
    return _read_version(path, path.stat().st_mtime_ns)


@cache
def _read_version(path: Path, _mtime_ns: int) -> Entry:
    try:
        found = Entry.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {_first_problem(error)}") from error
    if found.name != path.stem:
        raise UserError(f"{path}: name is '{found.name}': write `name: {path.stem}`, or rename the file.")
    return found


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"option or field '{where}' is required."
    got = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
    return f"'{where}': {message}{got}." if where else f"{message}."
