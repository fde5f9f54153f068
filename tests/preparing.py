"""Files of one's own, entered in a catalogue of their own, fetched and prepared."""

import hashlib
import io

import pytest
import yaml

from dgmbench.data import catalogue
from dgmbench.data.archives import content_sha256
from dgmbench.data.catalogue import resolve
from dgmbench.data.fetch import fetch
from dgmbench.data.prepare import open_dataset, prepare


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Adds an entry for files of the user's own, prepares it and opens it."""
    folder = tmp_path / "catalogue"
    folder.mkdir()
    monkeypatch.setattr(catalogue, "CATALOGUE", folder)

    def add(files, loader="array", members=None, **options):
        entry = {"name": "made", "title": "t", "version": "1", "description": "d", "licence": "l", "citation": "c"}
        entry |= {"homepage": "h", "loader": loader, "options": options, "files": []}
        for name, content in files.items():
            path = tmp_path / name
            path.write_bytes(content)
            checks = {"sha256": hashlib.sha256(content).hexdigest()}
            if members:
                checks = {"content_sha256": content_sha256(path, members), "members": members}
            entry["files"].append({"name": name, "path": str(path), **checks})
        (folder / "made.yaml").write_text(yaml.safe_dump(entry))
        catalogue._read_version.cache_clear()
        fetch("made", tmp_path / "raw")
        return resolve("made")

    return add


def made(ref, tmp_path, where="prepared"):
    return open_dataset(prepare(ref, tmp_path / "raw", tmp_path / where))


def saved(save, *args, **kwargs) -> bytes:
    stream = io.BytesIO()
    save(stream, *args, **kwargs)
    return stream.getvalue()


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
