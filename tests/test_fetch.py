"""Fetching: what is verified, what stays after a failure, and what a person is told."""

import errno
import gzip
import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import yaml

from dgmbench.data import catalogue, download
from dgmbench.data.catalogue import resolve
from dgmbench.data.fetch import fetch
from dgmbench.data.part import Part
from dgmbench.errors import UserError

_SPEC = importlib.util.spec_from_file_location("serving", Path(__file__).parent / "serving.py")
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
serving = _MODULE.serving

BODY = b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(4000))
SHA = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as made:
        yield made


@pytest.fixture
def add(tmp_path, monkeypatch):
    folder = tmp_path / "catalogue"
    folder.mkdir()
    monkeypatch.setattr(catalogue, "CATALOGUE", folder)

    def write(**file):
        entry = {"name": "made", "title": "t", "version": "1", "description": "d", "licence": "l", "citation": "c"}
        entry |= {"homepage": "h", "loader": "array", "options": {"values": "real", "shape": [2]}}
        entry["files"] = [{"name": "a.npy", "sha256": SHA, **file}]
        (folder / "made.yaml").write_text(yaml.safe_dump({**entry}))
        catalogue._read_version.cache_clear()

    return write


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


def mirror_with(tmp_path, body, name="made/a.npy") -> str:
    path = tmp_path / "mirror" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return str(tmp_path / "mirror")


def left(raw) -> list[str]:
    return sorted(path.name for path in raw.rglob("*") if path.is_file())


def manifest(raw) -> dict:
    return json.loads((raw / "made" / "manifest.json").read_text())


def test_a_mirror_folder_gives_the_file_and_a_manifest_without_machine_paths(add, raw, tmp_path):
    add(mirror="made/a.npy")
    assert fetch("made", raw, mirror=mirror_with(tmp_path, BODY)) == raw / "made"
    assert (raw / "made" / "a.npy").read_bytes() == BODY
    row = {"file": "a.npy", "bytes": len(BODY), "sha256": SHA, "content_sha256": SHA, "matched": ["sha256"]}
    assert manifest(raw) == {"name": "made", "version": "1", "files": [{**row, "source": "mirror: made/a.npy"}]}
    assert left(raw) == ["a.npy", "manifest.json"]
    assert str(tmp_path) not in (raw / "made" / "manifest.json").read_text()


def test_a_mirror_address_and_canonical_addresses_are_tried_in_order(add, raw, server):
    server.files = {"second/a.npy": BODY}
    add(mirror="made/a.npy", urls=[f"{server.url}/first/a.npy", f"{server.url}/second/a.npy"])
    fetch("made", raw, mirror=server.url + "/mirror/")
    assert [path for path, _ in server.requests] == ["/mirror/made/a.npy", "/first/a.npy", "/second/a.npy"]
    assert manifest(raw)["files"][0]["source"] == f"{server.url}/second/a.npy"


def test_a_wrong_mirror_is_passed_over(add, raw, server, tmp_path):
    server.files = {"a.npy": BODY}
    add(mirror="made/a.npy", urls=[f"{server.url}/a.npy"])
    fetch("made", raw, mirror=mirror_with(tmp_path, b"altered"))
    assert (raw / "made" / "a.npy").read_bytes() == BODY


def test_what_is_there_and_right_is_not_fetched_again(add, raw, server):
    server.files = {"a.npy": BODY}
    add(mirror="made/a.npy", urls=[f"{server.url}/a.npy"])
    fetch("made", raw)
    stamp = (raw / "made" / "manifest.json").stat().st_mtime_ns
    fetch("made", raw)
    fetch("made", raw, offline=True)
    assert len(server.requests) == 1
    assert (raw / "made" / "manifest.json").stat().st_mtime_ns == stamp


def test_what_was_altered_after_it_was_fetched_is_fetched_again(add, raw, tmp_path):
    add(mirror="made/a.npy")
    mirror = mirror_with(tmp_path, BODY)
    path = fetch("made", raw, mirror=mirror) / "a.npy"
    path.write_bytes(BODY[:-1])
    fetch("made", raw, mirror=mirror)
    assert path.read_bytes() == BODY


def test_a_gzipped_mirror_and_a_plain_origin_are_the_same_data(add, raw, server, tmp_path):
    packed = gzip.compress(BODY, mtime=0)
    add(mirror="made/a.npy.gz", urls=[f"{server.url}/a.npy"], sha256=[], content_sha256=SHA)
    server.files = {"a.npy": BODY}
    key = resolve("made").key
    fetch("made", raw, mirror=mirror_with(tmp_path, packed, "made/a.npy.gz"))
    assert manifest(raw)["files"][0]["sha256"] == hashlib.sha256(packed).hexdigest()
    fetch("made", tmp_path / "other")
    plain = json.loads((tmp_path / "other/made/manifest.json").read_text())["files"][0]
    assert plain["sha256"] == plain["content_sha256"] == SHA == manifest(raw)["files"][0]["content_sha256"]
    assert plain["matched"] == manifest(raw)["files"][0]["matched"] == ["content_sha256"]
    assert resolve("made").key == key


def test_a_file_of_the_right_md5_is_accepted_and_its_sha256_written_down(add, raw, tmp_path):
    add(mirror="made/a.npy", sha256=[], md5=MD5)
    mirror = mirror_with(tmp_path, BODY)
    fetch("made", raw, mirror=mirror)
    row = {"file": "a.npy", "bytes": len(BODY), "sha256": SHA, "content_sha256": SHA, "matched": ["md5"]}
    assert manifest(raw)["files"] == [{**row, "source": "mirror: made/a.npy"}]
    shutil.rmtree(mirror)
    assert (fetch("made", raw, mirror=mirror, offline=True) / "a.npy").read_bytes() == BODY


def test_a_file_of_another_md5_is_refused_and_leaves_nothing(add, raw, tmp_path):
    add(mirror="made/a.npy", sha256=[], md5=MD5)
    with pytest.raises(UserError) as caught:
        fetch("made", raw, mirror=mirror_with(tmp_path, BODY[:-1] + b"X"))
    assert "mirror" in str(caught.value)
    assert f"not the file that is expected: {len(BODY):,} bytes" in str(caught.value)
    assert f"expected md5 {MD5}" in str(caught.value)
    assert left(raw) == []


def test_what_was_fetched_by_md5_and_altered_afterwards_is_fetched_again(add, raw, tmp_path):
    add(mirror="made/a.npy", sha256=[], md5=MD5)
    path = fetch("made", raw, mirror=mirror_with(tmp_path, BODY)) / "a.npy"
    path.write_bytes(BODY[::-1])
    fetch("made", raw, mirror=str(tmp_path / "mirror"))
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_continued_where_it_broke(add, raw, server, ranges):
    server.files, server.breaks, server.ranges = {"a.npy": BODY}, 2 if ranges else 1, ranges
    add(mirror="made/a.npy", urls=[f"{server.url}/a.npy"])
    fetch("made", raw)
    assert (raw / "made" / "a.npy").read_bytes() == BODY
    asked = [wanted for _, wanted in server.requests]
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in asked[1:]]
    assert asked[0] is None
    assert len(starts) == (2 if ranges else 1)
    # The last block of an answer that breaks off may be lost, but not what came before it.
    assert 0 < starts[0] <= len(BODY) // 2
    assert starts == sorted(set(starts))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (BODY[:-10], f"{len(BODY) - 10:,} bytes"),
        (b"X" + BODY[1:], hashlib.sha256(b"X" + BODY[1:]).hexdigest()),
        (b"<html>sign in</html>", "20 bytes"),
        (b"", "0 bytes"),
        (None, "404"),
    ],
)
def test_a_truncated_altered_or_missing_download_leaves_nothing(add, raw, server, body, says):
    server.files = {} if body is None else {"a.npy": body}
    add(mirror="made/a.npy", urls=[f"{server.url}/a.npy"])
    with pytest.raises(UserError, match=r"'a\.npy' of dataset 'made'") as caught:
        fetch("made", raw)
    assert says in str(caught.value)
    assert body is None or f"expected sha256 {SHA}" in str(caught.value)
    assert "set `mirror`" in str(caught.value)
    assert left(raw) == []


def test_a_connection_that_always_breaks_leaves_only_what_the_next_fetch_continues(add, raw, server):
    server.files, server.breaks = {"a.npy": BODY}, 1000
    add(mirror="made/a.npy", urls=[f"{server.url}/a.npy"])
    with pytest.raises(UserError, match=r"no connection .*bytes are kept, the next fetch goes on from there"):
        fetch("made", raw)
    assert len(server.requests) == download._ATTEMPTS
    assert left(raw) == [".a.npy.part", ".a.npy.part.json"]
    server.breaks = 0
    fetch("made", raw)
    assert len(server.requests) == download._ATTEMPTS + 1
    assert left(raw) == ["a.npy", "manifest.json"]


def test_a_closed_network_says_how_to_set_a_mirror(add, raw, server):
    closed = server.url
    server.shutdown()
    server.server_close()
    add(mirror="made/a.npy", urls=[f"{closed}/a.npy"])
    with pytest.raises(UserError, match=r"no connection .* set `mirror` to a folder or base URL .* made/a\.npy"):
        fetch("made", raw)


def test_a_mirror_without_the_file_says_where_it_belongs(add, raw, tmp_path):
    add(mirror="made/b.npy")
    with pytest.raises(UserError, match=r"no such file.*made/b\.npy below `mirror`"):
        fetch("made", raw, mirror=mirror_with(tmp_path, BODY))


def test_offline_never_asks_the_network(add, raw, server):
    server.files = {"a.npy": BODY, "made/a.npy": BODY}
    add(mirror="made/a.npy", urls=[f"{server.url}/a.npy"])
    with pytest.raises(UserError, match="offline"):
        fetch("made", raw, mirror=server.url, offline=True)
    assert server.requests == []


def test_an_own_file_that_changed_prints_the_line_to_paste(add, raw, tmp_path):
    own = tmp_path / "own.npy"
    own.write_bytes(b"new")
    add(path=str(own))
    with pytest.raises(UserError) as caught:
        fetch("made", raw)
    assert f"sha256: {hashlib.sha256(b'new').hexdigest()}" in str(caught.value)
    own.write_bytes(BODY)
    fetch("made", raw)
    assert manifest(raw)["files"][0]["source"] == "own file own.npy"
    own.unlink()
    shutil.rmtree(raw)
    with pytest.raises(UserError, match="no such file"):
        fetch("made", raw)


@pytest.mark.parametrize(("package", "path"), [("no_such_package", "a"), ("sklearn", "no/such/file")])
def test_a_missing_package_is_told(add, raw, package, path):
    add(package=package, path=path)
    with pytest.raises(UserError, match=f"install the version of '{package}'"):
        fetch("made", raw)


def test_a_full_disk_leaves_nothing_and_says_what_is_needed(add, raw, tmp_path, monkeypatch):
    def full(_source, destination, _block):
        destination.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    add(mirror="made/a.npy")
    mirror = mirror_with(tmp_path, BODY)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match=f"no space left.*{len(BODY):,} bytes"):
        fetch("made", raw, mirror=mirror)
    assert left(raw) == []


def test_a_disk_that_a_download_fills_gets_its_room_back(add, raw, server, monkeypatch):
    def full(part, block):
        part._stream.write(block[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    server.files = {"a.npy": BODY}
    add(mirror="made/a.npy", urls=[f"{server.url}/a.npy"])
    monkeypatch.setattr(Part, "write", full)
    with pytest.raises(UserError, match=f"no space left.*{len(BODY):,} bytes"):
        fetch("made", raw)
    assert left(raw) == []


def test_several_mirrors_are_asked_in_order_folders_and_addresses(add, raw, server, tmp_path):
    server.files = {"third/made/a.npy": BODY}
    add(mirror="made/a.npy", urls=[f"{server.url}/a.npy"])
    mirrors = [str(tmp_path / "none"), f"{server.url}/second", f"{server.url}/third/"]
    fetch("made", raw, mirror=mirrors)
    assert [path for path, _ in server.requests] == ["/second/made/a.npy", "/third/made/a.npy"]
    assert manifest(raw)["files"][0]["source"] == "mirror: made/a.npy"


def test_where_no_mirror_has_a_file_each_is_named_with_what_it_said(add, raw, server, tmp_path):
    add(mirror="made/a.npy", urls=[f"{server.url}/a.npy"])
    mirrors = [str(tmp_path / "none"), mirror_with(tmp_path, b"altered"), f"{server.url}/third"]
    with pytest.raises(UserError) as caught:
        fetch("made", raw, mirror=mirrors)
    said = str(caught.value)
    places = [f"mirror {mirror}: made/a.npy: " for mirror in mirrors] + [f"{server.url}/a.npy: the server answered 404"]
    assert sorted(map(said.index, places)) == [said.index(place) for place in places]
    assert f"made/a.npy below `mirror`, one of {mirrors[0]}, {mirrors[1]} and {mirrors[2]}" in said


def test_offline_asks_only_the_mirrors_that_are_folders(add, raw, server, tmp_path):
    server.files = {"a.npy": BODY, "made/a.npy": BODY}
    add(mirror="made/a.npy", urls=[f"{server.url}/a.npy"])
    empty = str(tmp_path / "none")
    with pytest.raises(UserError, match=r"no such file; offline, so no address was asked\. What"):
        fetch("made", raw, mirror=[server.url, empty], offline=True)
    fetch("made", raw, mirror=[server.url, empty, mirror_with(tmp_path, BODY)], offline=True)
    assert server.requests == []


def test_what_cannot_be_fetched_says_where_to_get_it_and_where_to_put_it(add, raw, server, tmp_path):
    url = f"{server.url}/a.npy"
    add(mirror="made/a.npy", urls=[url])
    path = tmp_path / "catalogue" / "made.yaml"
    path.write_text(path.read_text() + "obtain: Ask the authors for a password.\n")
    catalogue._read_version.cache_clear()
    with pytest.raises(UserError) as caught:
        fetch("made", raw)
    by_hand = f"get it from {url} by other means and put it at {raw / 'made' / 'a.npy'}"
    assert f"What to do: Ask the authors for a password; {by_hand}; or where" in str(caught.value)
    (raw / "made" / "a.npy").write_bytes(BODY)
    fetch("made", raw)
    assert manifest(raw)["files"][0]["source"] == "already there"


def test_a_damaged_manifest_is_written_anew(add, raw, tmp_path):
    add(mirror="made/a.npy")
    mirror = mirror_with(tmp_path, BODY)
    fetch("made", raw, mirror=mirror)
    (raw / "made" / "manifest.json").write_text("{half")
    fetch("made", raw, mirror=mirror)
    assert manifest(raw)["files"][0]["sha256"] == SHA
