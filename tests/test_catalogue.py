"""Catalogue entries: what is refused, with which sentence, and what an identity depends on."""

import hashlib

import pytest
import yaml

from dgmbench.data import catalogue
from dgmbench.errors import UserError

SHA = "a" * 64


def entry(**changes):
    fields = {
        "name": "made",
        "title": "Made",
        "version": "1",
        "description": "Made for a test.",
        "licence": "CC0",
        "citation": "none",
        "homepage": "none",
        "loader": "array",
        "options": {"values": "real", "shape": [2]},
        "files": [{"name": "a.npy", "mirror": "made/a.npy", "urls": ["https://example.org/a.npy"], "sha256": SHA}],
    }
    return {**fields, **changes}


@pytest.fixture
def add(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path)

    def write(stem="made", **changes):
        (tmp_path / f"{stem}.yaml").write_text(yaml.safe_dump(entry(**changes)))
        catalogue._read_version.cache_clear()

    return write


def file(**changes):
    return [{key: value for key, value in ({**entry()["files"][0], **changes}).items() if value is not None}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": ""}, "'licence'"),
        ({"licens": "MIT"}, "'licens'"),
        ({"obtain": " "}, "'obtain'"),
        ({"name": "other"}, "write `name: made`"),
        ({"version": 1}, "'version'"),
        ({"files": file(path="x.npy")}, "exactly one origin"),
        ({"files": file(urls=None, mirror=None)}, "exactly one origin"),
        ({"files": file(urls=None, mirror=None, package="sklearn")}, "exactly one origin"),
        ({"files": file(mirror=None)}, "no 'mirror'"),
        ({"files": file(mirror="../a.npy")}, "below the mirror"),
        ({"files": file(mirror="/a.npy")}, "below the mirror"),
        ({"files": file(urls=["ftp://example.org/a"])}, "http"),
        ({"files": file(sha256="12")}, "sha256"),
        ({"files": file(sha256=None)}, "needs 'sha256' or 'content_sha256'"),
        ({"files": file(sha256=None, md5="a" * 31)}, "'files.0.md5'"),
        ({"files": file(sha256=None, md5="A" * 32)}, "'files.0.md5'"),
        ({"files": file(md5="a" * 32)}, "has 'md5' beside a better checksum: remove 'md5'"),
        ({"files": file(sha256=None, content_sha256=SHA, md5="a" * 32)}, "has 'md5' beside a better checksum"),
        (
            {"files": file(sha256=None, md5="a" * 32, urls=["https://example.org/a", "http://example.org/a"])},
            "https://",
        ),
        ({"files": file(sha256=[SHA, "b" * 64])}, "add 'content_sha256'"),
        ({"files": file(name="../a.npy")}, "'files.0.name'"),
        ({"files": file() * 2}, "same name"),
    ],
)
def test_a_wrong_entry_is_one_sentence_that_names_the_file_and_the_field(add, changes, message):
    add(**changes)
    with pytest.raises(UserError, match=r"made\.yaml") as caught:
        catalogue.entries()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_yaml_is_one_sentence(add, tmp_path):
    (tmp_path / "made.yaml").write_text("name: [unclosed")
    with pytest.raises(UserError, match="is not YAML") as caught:
        catalogue.entry("made")
    assert "\n" not in str(caught.value)


def test_yaml_cannot_build_python_objects(add, tmp_path):
    (tmp_path / "made.yaml").write_text("!!python/object/apply:os.system [true]")
    with pytest.raises(UserError, match="is not YAML"):
        catalogue.entry("made")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "did you mean 'digits'"),
        ("../digits", {}, "there is no dataset"),
        ("digits", {"sead": 1}, "did you mean 'seed'"),
        ("digits", {"seed": -1}, "greater than or equal to 0 (got -1)"),
        ("digits", {"train": 1.5}, "integer"),
        ("mnist-static", {"seed": 1}, "has no options"),
        ("toys-rings", {"shape": "ring"}, "'rings'"),
    ],
)
def test_wrong_names_and_options_say_what_to_write(name, options, message):
    with pytest.raises(UserError) as caught:
        catalogue.resolve(name, options)
    assert message in str(caught.value)


def test_unknown_loader_is_told(add):
    add(loader="arrays")
    with pytest.raises(UserError, match="did you mean 'array'"):
        catalogue.resolve("made")


def test_options_come_back_complete_and_defaults_spelled_out_change_nothing():
    bare = catalogue.resolve("digits")
    assert bare.options["train"] == 1197
    assert catalogue.resolve("digits", bare.options) == bare
    assert bare.key == f"digits-{bare.identity}"
    assert len(bare.identity) == 8


def test_identity_follows_data_options_and_version_and_nothing_else(add):
    def identity(**changes):
        add(**changes)
        return catalogue.resolve("made").identity

    first = identity()
    assert identity(title="Another title", licence="MIT", homepage="elsewhere", obtain="Write to us.") == first
    assert identity(files=file(mirror="elsewhere/a.npy", urls=["http://example.org/b"])) == first
    options = {"values": "real", "shape": [2]}
    others = [
        identity(version="2"),
        identity(files=file(sha256="b" * 64)),
        identity(options={**options, "seed": 1}),
        identity(options={**options, "values": "unit"}),
    ]
    assert len({first, *others}) == 5


def test_identity_is_that_of_the_content_not_of_the_container(add):
    def identity(**changes):
        add(files=file(content_sha256="c" * 64, **changes))
        return catalogue.resolve("made").identity

    assert identity() == identity(sha256="b" * 64) == identity(sha256=[SHA, "b" * 64]) == identity(sha256=None)


def test_a_file_with_nothing_but_md5_is_known_by_it(add):
    def identity(**changes):
        add(files=file(sha256=None, **changes))
        return catalogue.resolve("made").identity

    assert identity(md5="a" * 32) != identity(md5="b" * 32)
    assert identity(md5="a" * 32) == identity(md5="a" * 32, urls=["https://example.org/elsewhere"])
    # A checksum of another kind with the same digits is another one.
    assert identity(md5="a" * 32) != identity(content_sha256="a" * 64)
    assert catalogue.entry("made").files[0].identity == SHA


def test_own_file_without_a_checksum_gives_the_line_to_paste(add, tmp_path):
    own = tmp_path / "own.npy"
    own.write_bytes(b"123")
    add(files=[{"name": "own.npy", "path": str(own)}])
    with pytest.raises(UserError) as caught:
        catalogue.resolve("made")
    assert f"sha256: {hashlib.sha256(b'123').hexdigest()}" in str(caught.value)
