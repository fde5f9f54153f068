"""A folder of the user's own as one source file: what is packed, that the zip is always the same, what is refused."""

import hashlib
import json
import os
import random
import zipfile

import pytest
import yaml

from dgmbench.data import archives, catalogue, folder
from dgmbench.data.catalogue import resolve
from dgmbench.data.fetch import fetch
from dgmbench.errors import UserError

FILES = {"b.png": b"second", "a.png": b"first", "more/deep/c.png": b"third" * 1000, "notes.txt": b"not packed"}
PACKED = ["a.png", "b.png", "more/deep/c.png"]


@pytest.fixture
def cats(tmp_path):
    path = tmp_path / "cats"
    for name, content in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.fixture
def add(tmp_path, monkeypatch, cats):
    (tmp_path / "catalogue").mkdir()
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path / "catalogue")

    def write(**file):
        entry = {"name": "made", "title": "t", "version": "1", "description": "d", "licence": "l", "citation": "c"}
        entry |= {"homepage": "h", "loader": "array", "options": {"values": "real", "shape": [2]}}
        entry["files"] = [{"name": "cats.zip", "path": str(cats), "members": "*.png"} | file]
        entry["files"] = [{key: value for key, value in entry["files"][0].items() if value is not None}]
        (tmp_path / "catalogue" / "made.yaml").write_text(yaml.safe_dump(entry))
        catalogue._read_version.cache_clear()

    return write


def line(text: str) -> str:
    """The checksum in the line that a message gives to paste."""
    return text.split("`content_sha256: ")[1].split("`")[0]


def test_the_line_to_paste_is_the_checksum_of_the_packed_folder(add, cats, tmp_path):
    add()
    with pytest.raises(UserError, match=r"has no checksum: add the line `content_sha256: [0-9a-f]{64}`") as caught:
        fetch("made", tmp_path / "raw")
    with pytest.raises(UserError) as same:
        resolve("made")
    assert str(same.value) == str(caught.value)
    add(content_sha256=line(str(caught.value)))
    packed = fetch("made", tmp_path / "raw") / "cats.zip"
    assert archives.content_sha256(packed, "*.png") == line(str(caught.value))
    assert dict(archives.members(packed)) == {name: FILES[name] for name in PACKED}
    row = json.loads((tmp_path / "raw/made/manifest.json").read_text())["files"][0]
    assert row["source"] == "own folder cats"
    assert row["matched"] == ["content_sha256"]
    assert str(tmp_path) not in json.dumps(row)


def test_the_zip_is_the_same_whatever_the_order_dates_and_modes(cats, tmp_path):
    def packed(source) -> bytes:
        folder.pack(folder.matching(source, "*.png"), tmp_path / "out.zip")
        return (tmp_path / "out.zip").read_bytes()

    first = packed(cats)
    other = tmp_path / "elsewhere"
    for name in random.Random(0).sample(list(FILES), len(FILES)):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes(FILES[name])
        (other / name).chmod(0o600)
        os.utime(other / name, (1e9, 1e9))
    assert packed(other) == first
    # Pinned, so that another Python or machine that packs differently shows.
    assert hashlib.sha256(first).hexdigest() == "6ede10ca902a49cd0ff42155a33d96c919643f964a4c671f5e26e49087815aab"
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == PACKED
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_changed_folder_is_told_with_the_new_line(add, cats, tmp_path):
    add(content_sha256=folder.content_sha256(cats, "*.png"))
    fetch("made", tmp_path / "raw")
    (cats / "a.png").write_bytes(b"another")
    fetch("made", tmp_path / "raw")  # what was fetched is still what the entry means
    with pytest.raises(UserError, match="raise `version`") as caught:
        fetch("made", tmp_path / "other")
    assert line(str(caught.value)) == folder.content_sha256(cats, "*.png")
    assert [path.name for path in (tmp_path / "other").rglob("*") if path.is_file()] == []


def test_the_glob_matches_the_whole_relative_name(cats):
    assert list(folder.matching(cats, "*")) == [*PACKED, "notes.txt"]
    assert list(folder.matching(cats, "more/*")) == ["more/deep/c.png"]
    assert list(folder.matching(cats, "?.png")) == ["a.png", "b.png"]


@pytest.mark.parametrize("wrong", [{"name": "cats.tar"}, {"members": None}, {"members": None, "sha256": "a" * 64}])
def test_a_folder_needs_a_zips_name_and_members(add, tmp_path, wrong):
    add(**wrong)
    with pytest.raises(UserError, match=r"is packed from a folder: give it a name that ends in \.zip"):
        fetch("made", tmp_path / "raw")


def test_a_folder_without_matching_files_is_one_sentence(add, tmp_path):
    add(members="*.jpg", content_sha256="a" * 64)
    with pytest.raises(UserError, match=r"no file of .*cats matches '\*\.jpg'"):
        fetch("made", tmp_path / "raw")
    assert not list((tmp_path / "raw").rglob("*.zip"))


def test_links_that_count_are_refused_and_others_are_not_followed(cats, tmp_path):
    (cats / "other.txt").symlink_to("notes.txt")
    assert list(folder.matching(cats, "*.png")) == PACKED
    (cats / "d.png").symlink_to("a.png")
    with pytest.raises(UserError, match=r"d\.png is a symbolic link"):
        folder.matching(cats, "*.png")
    (cats / "d.png").unlink()
    (cats / "inside").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UserError, match="inside is a symbolic link"):
        folder.matching(cats, "*.png")


@pytest.mark.parametrize("name", ["a\\b.png", "c:.png", b"\xff.png"])
def test_names_that_an_archive_cannot_hold_are_refused(cats, name):
    with open(os.path.join(os.fsencode(cats), name if isinstance(name, bytes) else name.encode()), "wb"):
        pass
    with pytest.raises(UserError, match="rename"):
        folder.matching(cats, "*.png")


def test_what_is_no_file_is_refused(cats):
    os.mkfifo(cats / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png is not a regular file"):
        folder.matching(cats, "*.png")


@pytest.mark.parametrize("limits", [archives.Limits(members=2), archives.Limits(total=100)])
def test_more_than_an_archive_may_hold_is_refused_before_it_is_packed(cats, limits):
    with pytest.raises(UserError, match="choose fewer, or smaller ones"):
        folder.matching(cats, "*.png", limits)
