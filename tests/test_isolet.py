"""ISOLET from small made files: every container and every order of the rows gives the same arrays."""

import gzip
import zipfile

import ncompress
import numpy as np
import pytest
from samples import isolet as sample

from dgmbench.data.datasets import isolet
from dgmbench.data.loading import Writer
from dgmbench.errors import UserError


@pytest.fixture
def files(tmp_path, monkeypatch):
    return sample.make(tmp_path, monkeypatch)[0]


def prepared(files, folder, **options):
    folder.mkdir()
    chosen = isolet.Options(**options)
    writer = Writer(folder, isolet.describe(chosen))
    isolet.prepare(files, chosen, writer)
    found = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    assert tuple(split for split in ("train", "validation", "test") if split in found) == isolet.splits(chosen)
    return found


def zipped(path, contents):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def test_every_container_and_every_order_of_the_rows_gives_the_same_arrays(files, tmp_path):
    first, texts = prepared(files, tmp_path / "first", validation=4), sample.texts()
    together = {f"{name}.Z": ncompress.compress(text) for name, text in texts.items()}

    def pack(name, text, container):
        if container == "zip":
            zipped(files[name], together | {"isolet.info": b"about"})
        else:
            files[name].write_bytes({"text": bytes, "gzip": gzip.compress, "lzw": ncompress.compress}[container](text))

    for container in ("text", "gzip", "lzw", "zip", "shuffled"):
        for name, text in texts.items():
            lines = text.splitlines(keepends=True)
            if container == "shuffled":
                pack(name, b"".join(lines[::-1]), "text")
            else:
                pack(name, text, container)
        found = prepared(files, tmp_path / container, validation=4)
        assert found.keys() == first.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, first[name], err_msg=f"{container}: {name}")


def test_rows_keep_their_letters_and_are_in_order(files, tmp_path):
    found = prepared(files, tmp_path / "out")
    for split, text in zip(("train", "test"), sample.texts().values()):
        table = np.array([line.split(b",") for line in text.splitlines()], dtype=np.float64)
        rows = sorted((letter, *values) for *values, letter in table.tolist())
        np.testing.assert_array_equal(found[f"{split}_labels"], [row[0] for row in rows])
        np.testing.assert_array_equal(found[split], np.array([row[1:] for row in rows]).astype(np.float32))


def test_together_and_scaled(files, tmp_path):
    apart, found = prepared(files, tmp_path / "a"), prepared(files, tmp_path / "b", together=True, scaled=True)
    whole = np.concatenate([apart["train"], apart["test"]]).astype(np.float64)
    np.testing.assert_allclose(found["train"], (whole + 1) / 2, atol=1e-7)
    np.testing.assert_array_equal(found["train_labels"], np.concatenate([apart["train_labels"], apart["test_labels"]]))
    assert isolet.describe(isolet.Options(scaled=True)).values == "unit"
    assert isolet.describe(isolet.Options()).values == "real"


def test_minus_zero_is_zero(files, tmp_path):
    name = "isolet5.data"
    values = sample.texts()[name].splitlines(keepends=True)
    first = values[0].split(b",", 1)[1]
    outcomes = []
    for zero in (b"0.0000", b"-0.0000"):
        files[name].write_bytes(b"".join([zero + b"," + first, *values[1:]]))
        outcomes.append(prepared(files, tmp_path / zero.decode())["test"].tobytes())
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace(b"1.\n", b"2.\n", 1), "number of rows of each letter"),
        (lambda text: text.replace(b"0.", b"7.", 1), "between -1 and 1"),
        (lambda text: text.replace(b",", b";", 1), "not 26 lines of 8 numbers"),
        (lambda text: text + text, "52 lines"),
    ],
)
def test_another_table_is_refused_with_the_name_of_its_file(files, tmp_path, change, told):
    files["isolet5.data"].write_bytes(change(sample.texts()["isolet5.data"]))
    with pytest.raises(UserError, match=rf"isolet5\.data .*{told}"):
        prepared(files, tmp_path / "out")


def test_a_zip_without_the_file_is_told(files, tmp_path):
    zipped(files["isolet5.data"], {"isolet1+2+3+4.data.Z": b""})
    with pytest.raises(UserError, match=r"isolet5\.data is a zip without a member isolet5\.data\.Z"):
        prepared(files, tmp_path / "out")
