"""Fetching: what is verified, which mirror and address is asked, and what is fetched again."""

import gzip
import hashlib
import json
import shutil

import fetched as made
import pytest

from dgmbench.data.catalogue import resolve
from dgmbench.data.fetch import fetch
from dgmbench.errors import UserError

BODY, MD5, SHA, add, left, manifest = made.BODY, made.MD5, made.SHA, made.add, made.left, made.manifest
mirror_with, raw, server = made.mirror_with, made.raw, made.server


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


def test_a_damaged_manifest_is_written_anew(add, raw, tmp_path):
    add(mirror="made/a.npy")
    mirror = mirror_with(tmp_path, BODY)
    fetch("made", raw, mirror=mirror)
    (raw / "made" / "manifest.json").write_text("{half")
    fetch("made", raw, mirror=mirror)
    assert manifest(raw)["files"][0]["sha256"] == SHA
