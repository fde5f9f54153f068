"""Archives that nobody has checked: what is inside comes out, and nothing else happens."""

import gzip
import hashlib
import io
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgmbench.data import archives
from dgmbench.data.archives import Limits, content_sha256, members, open_bytes, open_text
from dgmbench.errors import UserError

CONTENT = {"top/a.txt": b"alpha", "top/b.txt": b"beta" * 1000, "top/c.jpg": b"\xff\xd8"}


def tar(path, content=CONTENT, mode="w:gz", extra=()):
    with tarfile.open(path, mode) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return path


def zipped(path, content=CONTENT, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(params=["tgz", "tar", "zip"])
def build(request, tmp_path):
    def make(content=CONTENT):
        path = tmp_path / f"made.{request.param}"
        if request.param == "zip":
            return zipped(path, content)
        return tar(path, content, "w:gz" if request.param == "tgz" else "w")

    return make


def test_members_come_out_whole_and_by_pattern(build):
    path = build()
    assert dict(members(path)) == CONTENT
    assert [name for name, _ in members(path, "*.jpg")] == ["top/c.jpg"]


def test_content_checksum_does_not_depend_on_container_or_order(tmp_path):
    backwards = dict(reversed(CONTENT.items()))
    made = [
        tar(tmp_path / "a.tgz"),
        tar(tmp_path / "b.tar", backwards, "w"),
        zipped(tmp_path / "c.zip", backwards, zipfile.ZIP_STORED),
    ]
    lines = "".join(f"{name} {hashlib.sha256(CONTENT[name]).hexdigest()}\n" for name in sorted(CONTENT))
    assert {content_sha256(path, "*") for path in made} == {hashlib.sha256(lines.encode()).hexdigest()}
    assert len({content_sha256(path, "*.txt") for path in made} - {content_sha256(made[0], "*")}) == 1


def test_gzip_is_told_by_its_bytes_not_by_its_name(tmp_path):
    plain, packed = tmp_path / "a.gz", tmp_path / "a.txt"
    plain.write_bytes("grün".encode())
    packed.write_bytes(gzip.compress("grün".encode()))
    assert open_text(plain) == open_text(packed) == "grün"
    assert content_sha256(plain) == content_sha256(packed) == hashlib.sha256("grün".encode()).hexdigest()


def test_text_that_is_not_utf8_is_told(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\xff")
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8 text: .* at byte 1"):
        open_text(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["../out", "top/../../out", "/etc/out", "C:/out", "top\\out"])
def test_members_that_would_land_outside_are_refused(build, name):
    with pytest.raises(UserError, match=r"made\..* would land outside"):
        list(members(build({"fine": b"1", name: b"2"})))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused_even_where_not_asked_for(tmp_path, kind):
    info = tarfile.TarInfo("top/link")
    info.type, info.linkname = kind, "/etc/passwd"
    path = tar(tmp_path / "made.tgz", extra=[info])
    with pytest.raises(UserError, match="link, a device"):
        list(members(path, "*.txt"))


def test_links_in_a_zip_are_refused(tmp_path):
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="link or a device"):
        list(members(path))


def test_the_same_name_twice_is_refused(tmp_path):
    info = tarfile.TarInfo("top/a.txt")
    with pytest.raises(UserError, match="twice"):
        list(members(tar(tmp_path / "made.tgz", extra=[info])))


SMALL = Limits(total=1 << 30, ratio=50, free=1 << 16, members=100)


def test_a_bomb_is_refused_before_it_fills_the_memory(build, monkeypatch):
    path = build({"top/zeros": bytes(8 << 20)})
    limits = SMALL if path.suffix != ".tar" else Limits(total=1 << 20)
    with pytest.raises(UserError, match="expands to more than"):
        list(members(path, limits=limits))


def test_a_gzip_bomb_is_refused_by_every_way_of_opening_it(tmp_path):
    path = tmp_path / "zeros.gz"
    path.write_bytes(gzip.compress(bytes(8 << 20)))
    for opening in (open_bytes, open_text, lambda p, limits: content_sha256(p, limits=limits)):
        with pytest.raises(UserError, match="expands to more than"):
            opening(path, SMALL)


def test_many_members_are_refused(build):
    with pytest.raises(UserError, match="more than 100 members"):
        list(members(build({f"f{i}": b"" for i in range(101)}), limits=SMALL))


def test_a_zip_that_understates_its_sizes_is_damaged_not_expanded(tmp_path):
    path = zipped(tmp_path / "made.zip", {"zeros": bytes(1 << 20)})
    content = path.read_bytes()
    path.write_bytes(content.replace((1 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(UserError, match="damaged"):
        list(members(path))


def test_an_archive_inside_an_archive_stays_closed(build, tmp_path):
    inner = zipped(tmp_path / "inner", {"../../out": b"x"}, zipfile.ZIP_STORED).read_bytes()
    assert dict(members(build({"inner.zip": inner}))) == {"inner.zip": inner}


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 0.5, 0.75])
def test_a_truncated_archive_is_named(build, kept):
    path = build({f"top/{i}": hashlib.sha256(bytes([i])).digest() * 40 for i in range(20)})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(UserError, match=r"made\..* truncated or damaged"):
        list(members(path))


def test_a_tar_cut_between_two_members_is_noticed(tmp_path):
    path = tar(tmp_path / "made.tar", {"a": bytes(512), "b": b"x" * 512}, "w")
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(UserError, match="damaged"):
        list(members(path))


def test_a_truncated_gzip_is_named(tmp_path):
    path = tmp_path / "made.gz"
    path.write_bytes(gzip.compress(b"abc" * 1000)[:-9])
    with pytest.raises(UserError, match=r"made\.gz is truncated or damaged"):
        open_bytes(path)


def test_a_zip_whose_members_lie_before_its_beginning_is_damaged(tmp_path):
    path = zipped(tmp_path / "made.zip")
    content = bytearray(path.read_bytes())
    content[-6:-2] = (1 << 20).to_bytes(4, "little")  # where the list of members begins
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        list(members(path))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data(), kind=st.sampled_from(["tgz", "tar", "zip"]))
def test_any_damage_gives_a_sentence_or_members_but_never_another_exception(tmp_path_factory, data, kind):
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / f"made.{kind}"
    zipped(path) if kind == "zip" else tar(path, mode="w:gz" if kind == "tgz" else "w")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        list(archives.members(path))
    except UserError as error:
        assert path.name in str(error)  # noqa: PT017
