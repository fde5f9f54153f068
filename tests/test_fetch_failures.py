"""What a fetch that fails leaves, and what a person is told."""

import errno
import hashlib
import shutil

import fetched as made
import pytest

from dgmbench.data import catalogue, download
from dgmbench.data.fetch import fetch
from dgmbench.data.part import Part
from dgmbench.errors import UserError

BODY, SHA, add, left, manifest = made.BODY, made.SHA, made.add, made.left, made.manifest
mirror_with, raw, server = made.mirror_with, made.raw, made.server


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
