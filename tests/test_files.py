"""A file is whole or absent, and equal values have equal bytes and identities."""

import hashlib

import pytest

from dgmbench.files import atomic_path, canonical_json, sha256_file, short_hash, write_json, write_text


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a" / "numbers.csv"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half-way"), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("ne")
        raise RuntimeError("half-way")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["numbers.csv"]


def test_a_reader_never_meets_half_a_file(tmp_path):
    path = tmp_path / "numbers.csv"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent, "a rename is atomic within one file system only"
    assert path.read_text() == "half"
    assert path.stat().st_mode & 0o777 == 0o644


def test_json_bytes_depend_on_the_value_alone(tmp_path):
    write_json(tmp_path / "a", {"b": 1.5, "a": [1, None]})
    write_json(tmp_path / "b", {"a": [1, None], "b": 1.5})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", {"x": value})
    assert not list(tmp_path.iterdir())


def test_short_hash_is_of_the_value(tmp_path):
    assert short_hash({"a": 1, "b": 2}) == short_hash({"b": 2, "a": 1})
    assert short_hash({"a": 1}) != short_hash({"a": 1.5})
    assert short_hash({"a": 1}) == hashlib.sha256(canonical_json({"a": 1}).encode()).hexdigest()[:12]


def test_sha256_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1_000_000)
    assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
