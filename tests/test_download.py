"""Downloads that break off, in this process or with it, go on where they broke, and never trust what does not fit."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from serving import serving
from waiting import wait_for

from dgmbench.data import catalogue
from dgmbench.data.fetch import fetch
from dgmbench.data.part import Part
from dgmbench.data.transfer import Stopped, Transfer
from dgmbench.errors import UserError

BODY = b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(32_768))  # 1 MiB
SIZE = len(BODY)
HALF = SIZE // 2
OTHER = BODY[::-1]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as made:
        made.files, made.etags = {"a.npy": BODY}, {"a.npy": '"one"'}
        yield made


@pytest.fixture
def add(tmp_path, monkeypatch, server):
    folder = tmp_path / "catalogue"
    folder.mkdir()
    monkeypatch.setattr(catalogue, "CATALOGUE", folder)

    def write(urls=("a.npy",)):
        entry = {"name": "made", "title": "t", "version": "1", "description": "d", "licence": "l", "citation": "c"}
        entry |= {"homepage": "h", "loader": "array", "options": {"values": "real", "shape": [2]}}
        file = {"name": "a.npy", "mirror": "made/a.npy", "urls": [f"{server.url}/{url}" for url in urls]}
        entry["files"] = [file | {"sha256": hashlib.sha256(BODY).hexdigest()}]
        (folder / "made.yaml").write_text(yaml.safe_dump(entry))
        catalogue._read_version.cache_clear()

    return write


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


def left(raw) -> list[str]:
    return sorted(path.name for path in raw.rglob("*") if path.is_file())


def part(raw) -> Path:
    return raw / "made" / ".a.npy.part"


def leave(raw, server, here, *, url="a.npy", mark='"one"', total=SIZE) -> None:
    """A part as an earlier process leaves it."""
    (raw / "made").mkdir(parents=True)
    part(raw).write_bytes(here)
    about = {"url": f"{server.url}/{url}", "mark": mark, "bytes": total}
    part(raw).with_name(".a.npy.part.json").write_text(json.dumps(about))


def fetched(raw) -> bool:
    return (raw / "made" / "a.npy").read_bytes() == BODY and left(raw) == ["a.npy", "manifest.json"]


def test_what_an_earlier_process_left_is_continued(add, raw, server):
    add()
    leave(raw, server, BODY[:HALF])
    fetch("made", raw)
    assert server.requests == [("/a.npy", f"bytes={HALF}-")]
    assert server.sent == SIZE - HALF
    assert fetched(raw)


@pytest.mark.parametrize("content_range", [True, False])
@pytest.mark.parametrize("mark", [None, '"one"'])
def test_a_server_without_marks_is_continued_too(add, raw, server, mark, content_range):
    add()
    server.etags, server.content_range = {}, content_range
    leave(raw, server, BODY[:HALF], mark=mark)
    server.if_range = False
    fetch("made", raw)
    assert server.sent == SIZE - HALF
    assert fetched(raw)


def test_a_part_that_lacks_only_its_verification_is_not_asked_for(add, raw, server):
    add()
    leave(raw, server, BODY)
    fetch("made", raw)
    assert server.requests == []
    assert fetched(raw)


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_meanwhile_is_begun_anew(add, raw, server, if_range):
    add()
    leave(raw, server, OTHER[:HALF], mark='"zero"')
    server.if_range = if_range
    fetch("made", raw)
    # A server that does not know the condition says by its mark that the rest is of another file.
    assert [wanted for _, wanted in server.requests] == [f"bytes={HALF}-"] + [None] * (not if_range)
    assert fetched(raw)


def test_a_server_that_ignores_ranges_sends_it_all_again(add, raw, server):
    add()
    leave(raw, server, BODY[:HALF])
    server.ranges = False
    fetch("made", raw)
    assert server.sent == SIZE
    assert fetched(raw)


@pytest.mark.parametrize(
    ("here", "total"), [(BODY[:HALF], SIZE + 5), (BODY + b"more", None), (BODY, None), (OTHER + OTHER, 3)]
)
def test_a_size_that_does_not_fit_begins_anew(add, raw, server, here, total):
    add()
    leave(raw, server, here, total=total)
    fetch("made", raw)
    assert server.requests[-1] == ("/a.npy", None)
    assert len(server.requests) <= 2
    assert fetched(raw)


def test_a_beginning_that_was_wrong_is_removed_and_all_is_fetched_once_more(add, raw, server):
    add()
    leave(raw, server, OTHER[:HALF])
    fetch("made", raw)
    assert [wanted for _, wanted in server.requests] == [f"bytes={HALF}-", None]
    assert fetched(raw)


def test_what_is_wrong_from_the_first_byte_is_not_fetched_twice(add, raw, server):
    add()
    server.files = {"a.npy": OTHER}
    with pytest.raises(UserError, match="not the file that is expected"):
        fetch("made", raw)
    assert server.sent == SIZE
    assert left(raw) == []


def test_a_wrong_beginning_of_a_wrong_file_ends(add, raw, server):
    add()
    leave(raw, server, BODY[:HALF])
    server.files = {"a.npy": OTHER}
    with pytest.raises(UserError, match="not the file that is expected"):
        fetch("made", raw)
    assert [wanted for _, wanted in server.requests] == [f"bytes={HALF}-", None]
    assert left(raw) == []


@pytest.mark.parametrize("about", ["", "{half", "[]", '{"url": 3, "mark": {}, "bytes": "x"}', None])
def test_a_part_that_nothing_describes_is_begun_anew(add, raw, server, about):
    add()
    leave(raw, server, BODY[:HALF])
    path = part(raw).with_name(".a.npy.part.json")
    path.unlink() if about is None else path.write_text(about)
    fetch("made", raw)
    assert server.requests == [("/a.npy", None)]
    assert fetched(raw)


def test_a_part_waits_for_its_own_address(add, raw, server):
    """An address that refuses does not cost what came from another."""
    add(urls=("first.npy", "a.npy"))
    leave(raw, server, BODY[:HALF])
    fetch("made", raw)
    assert server.requests == [("/first.npy", None), ("/a.npy", f"bytes={HALF}-")]
    assert server.sent == SIZE - HALF
    assert fetched(raw)


@pytest.mark.parametrize("status", [404, 500, 503, 204])
def test_a_refusal_keeps_the_part_and_says_the_status(add, raw, server, status):
    add()
    leave(raw, server, BODY[:HALF])
    server.statuses = {"a.npy": status}
    with pytest.raises(UserError, match=f"the server answered {status}"):
        fetch("made", raw)
    assert part(raw).read_bytes() == BODY[:HALF]
    server.statuses = {}
    fetch("made", raw)
    assert server.sent == SIZE - HALF


def test_what_is_packed_on_the_wire_is_never_continued(add, raw, server):
    add()
    packed = gzip.compress(BODY, mtime=0)
    server.files, server.encoding, server.breaks = {"a.npy": packed}, "gzip", 1
    fetch("made", raw)
    assert [wanted for _, wanted in server.requests] == [None, None]
    assert fetched(raw)


def test_the_file_from_elsewhere_removes_the_part(add, raw, server, tmp_path):
    add()
    leave(raw, server, BODY[:HALF])
    mirror = tmp_path / "mirror" / "made" / "a.npy"
    mirror.parent.mkdir(parents=True)
    mirror.write_bytes(BODY)
    fetch("made", raw, mirror=str(tmp_path / "mirror"))
    assert server.requests == []
    assert fetched(raw)


def test_two_fetches_at_once_are_one_download(add, raw, server):
    """The second waits for the first's part and then finds the file."""
    add()
    server.stall_at = HALF
    threads = [threading.Thread(target=fetch, args=("made", raw)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: part(raw).is_file() and part(raw).stat().st_size == HALF)
    time.sleep(0.5)
    server.go.set()
    for thread in threads:
        thread.join()
    assert server.requests == [("/a.npy", None)]
    assert fetched(raw)


def test_a_part_is_held_by_one_at_a_time_and_removed_where_it_is_empty(tmp_path):
    path = tmp_path / "a.npy"
    with Part.of(path, Transfer("a")) as first:
        second = Transfer("a")
        second.stop.set()
        with pytest.raises(Stopped), Part.of(path, second):
            pytest.fail("two hold the part")
        assert first.size == 0
    assert list(tmp_path.iterdir()) == []


def start_fetch(tmp_path) -> subprocess.Popen:
    """`dgmbench fetch made` of the test's catalogue, in a process of its own."""
    program = (
        "import sys; from pathlib import Path; from dgmbench.data import catalogue; from dgmbench import cli; "
        f"catalogue.CATALOGUE = Path({str(tmp_path / 'catalogue')!r}); sys.argv = ['dgmbench', 'fetch', 'made']; "
        "cli.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DGMBENCH_MIRROR"}
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_stopped_in_the_middle_is_continued_by_the_next(add, server, tmp_path, how):
    add()
    raw = tmp_path / "data" / "raw"
    server.stall_at = HALF
    stopped = start_fetch(tmp_path)
    wait_for(lambda: part(raw).is_file() and part(raw).stat().st_size == HALF)
    stopped.send_signal(how)
    asked = time.monotonic()
    said = stopped.communicate()[1]
    assert time.monotonic() - asked < 10, "the server is silent, and the process waits for it"
    assert stopped.returncode == (-how if how == signal.SIGKILL else 130)
    assert how == signal.SIGKILL or "start again to continue" in said
    assert left(raw) == [".a.npy.part", ".a.npy.part.json"]

    server.stall_at, before = None, server.sent
    server.go.set()
    again = start_fetch(tmp_path)
    again.communicate()
    assert again.returncode == 0
    assert server.requests == [("/a.npy", None), ("/a.npy", f"bytes={HALF}-")]
    assert before == HALF
    assert fetched(raw)
