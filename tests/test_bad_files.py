"""Damaged and hostile files through every loader: a clear error that names the file, or exactly what is declared.

Checksums refuse such files long before a loader opens them; here the loaders themselves must stand. Each loader that
reads files has a sample, tests/samples/<loader>.py with `make(folder, monkeypatch) -> (files, options)`: a small valid
set of its files. 200 copies of it, each with one file damaged, are prepared in a process that may neither use more
than 1 GB beyond what it starts with nor take longer than five seconds for one copy.
"""

import gzip
import importlib
import io
import json
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dgmbench.data import certificate
from dgmbench.data.catalogue import entries, loader
from dgmbench.data.loading import Writer
from dgmbench.data.prepare import reading
from dgmbench.errors import UserError

SAMPLES = Path(__file__).parent / "samples"
COPIES = 200
SECONDS = 5.0
BYTES = 1 << 30
LOADERS = sorted({entry.loader for entry in entries().values() if entry.files} | {"array", "images"})
MAGIC = [
    b"PK\3\4\x14\0\0\0",
    b"\x1f\x8b\x08\0\0\0\0\0",
    b"\x89PNG\r\n\x1a\n",
    b"\x93NUMPY\1\0",
    b"MATLAB 5",
    b"\x1f\x9d\x90",
]
# A person's own files may hold any number of rows; a canonical file holds what it holds.
ANY_NUMBER_OF_ROWS = {"array", "images"}


def sample(name: str):
    path = SAMPLES / f"{name}.py"
    assert path.is_file(), f"the loader '{name}' reads files: give it {path.name} in tests/samples"
    return importlib.import_module(f"samples.{name}")


def damaged(content: bytes, number: int, rng: np.random.Generator) -> bytes:
    """Copy `number` of a file's content with one kind of damage; every other copy is damaged under its compression."""
    if number % 2 and content[:2] == b"\x1f\x8b":
        return gzip.compress(broken(gzip.decompress(content), number // 2, rng), 1)
    if number % 2 and content[:4] == b"PK\3\4":
        return repacked(content, number // 2, rng)
    return broken(content, number // 2, rng)


def broken(content: bytes, kind: int, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    place = int(rng.integers(0, max(1, len(data))))
    match kind % 8:
        case 0:
            return bytes(data[:place])
        case 1 | 2:
            for at in rng.integers(0, max(1, len(data)), rng.integers(1, 9)):
                data[at] ^= 1 << int(rng.integers(0, 8))
            return bytes(data)
        case 3:
            magic = MAGIC[int(rng.integers(0, len(MAGIC)))]
            return magic + bytes(data[len(magic) :])
        case 4:  # a size near the beginning becomes huge
            at = 4 * int(rng.integers(0, max(1, min(len(data), 400) // 4)))
            data[at : at + 4] = [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"][int(rng.integers(0, 3))]
            return bytes(data)
        case 5:
            return nested(content, int(rng.integers(0, 4)))
        case 6:  # a piece is missing, or there twice
            length = int(rng.integers(1, 1 + max(1, len(data) // 4)))
            piece = bytes(data[place : place + length])
            return bytes(data[:place]) + (piece * 2 if rng.integers(0, 2) else b"") + bytes(data[place + length :])
        case _:
            return [b"", rng.bytes(len(data)), content + rng.bytes(100), b"\0" * len(data)][int(rng.integers(0, 4))]


def nested(content: bytes, kind: int) -> bytes:
    if kind == 0:
        return gzip.compress(content, 1)
    if kind == 1:
        return gzip.compress(gzip.compress(bytes(300 << 20), 1), 9)  # a bomb in an envelope
    if kind == 2:
        return gzip.compress(bytes(200 << 20), 9)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("inner.zip", content)
    return stream.getvalue()


def repacked(content: bytes, kind: int, rng: np.random.Generator) -> bytes:
    """A zip with one member damaged, or with a name that leads outside."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(stream, "w") as out:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        chosen = int(rng.integers(0, len(infos)))
        for index, info in enumerate(infos):
            inside, name = archive.read(info), info.filename
            if index == chosen:
                inside = broken(inside, kind, rng)
                name = f"../{name}" if kind % 16 == 9 else name
            out.writestr(name, inside, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def outcome(name: str, files: dict[str, Path], options, folder: Path) -> dict:
    """Prepare as `prepare` does once the checksums are right: facts of each split, or the `UserError` that it gives."""
    module = loader(name)
    description = module.describe(options)
    folder.mkdir()
    try:
        with reading(files):
            module.prepare(files, options, Writer(folder, description))
            return certificate.evidence(folder, description)["splits"]
    finally:
        shutil.rmtree(folder)


def fuzz(name: str, folder: Path) -> list[str]:
    """What went wrong over all copies; empty where nothing did. Runs in a process of its own."""
    patch = pytest.MonkeyPatch()
    folder.mkdir()
    files, chosen = sample(name).make(folder, patch)
    options = loader(name).Options(**chosen)
    whole = outcome(name, files, options, folder / "out")
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + BYTES, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _late)
    rng, wrong, refused = np.random.default_rng(0), [], 0
    for number in range(COPIES):
        victim = list(files)[number % len(files)]
        content = damaged(files[victim].read_bytes(), number // len(files), rng)
        if content == files[victim].read_bytes():
            continue
        path = folder / "damaged" / files[victim].name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            found = outcome(name, files | {victim: path}, options, folder / "out")
            same = found.keys() == whole.keys() and all(
                (found[s]["dimension"], found[s]["dtype"]) == (whole[s]["dimension"], whole[s]["dtype"])
                and (name in ANY_NUMBER_OF_ROWS or found[s]["rows"] == whole[s]["rows"])
                for s in whole
            )
            if not same:
                wrong.append(f"copy {number} of {victim}: silently other arrays: {found}")
        except UserError as error:
            refused += 1
            if victim not in str(error) and path.name not in str(error):
                wrong.append(f"copy {number} of {victim}: the error does not name the file: {error}")
        except BaseException as error:
            wrong.append(f"copy {number} of {victim}: {type(error).__name__}: {error}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if refused < COPIES // 4:
        wrong.append(f"only {refused} of {COPIES} damaged copies were refused")
    return wrong


def _late(*_) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


@pytest.mark.parametrize("name", LOADERS)
def test_damaged_copies_are_refused_or_harmless(name, tmp_path):
    command = [sys.executable, __file__, name, str(tmp_path / "fuzz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    problems = json.loads(done.stdout.splitlines()[-1])
    assert not problems, "\n".join(problems[:10])


if __name__ == "__main__":
    print(json.dumps(fuzz(sys.argv[1], Path(sys.argv[2]))))
