"""An entry of one file, a server and mirrors that hold it, and what a fetch leaves."""

import hashlib
import json

import pytest
import yaml
from serving import serving

from dgmbench.data import catalogue

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
