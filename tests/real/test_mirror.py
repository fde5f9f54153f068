"""The real files, where a mirror of them is at hand: set DGMBENCH_MIRROR to its folder or base URL."""

import os

import numpy as np
import pytest

from dgmbench.data import certificate
from dgmbench.data.catalogue import entries, entry, resolve
from dgmbench.data.fetch import fetch
from dgmbench.data.prepare import open_dataset, prepare
from dgmbench.errors import UserError
from dgmbench.files import read_json

MIRROR = os.environ.get("DGMBENCH_MIRROR")
pytestmark = pytest.mark.skipif(not MIRROR, reason="DGMBENCH_MIRROR names no mirror of the real files")
REMOTE = sorted(name for name, found in entries().items() if any(file.mirror for file in found.files))
# Of these the mirror has no copy: they come from their own addresses, or by hand.
ELSEWHERE = ("omniglot-28", "reuters-10k")


def prepared(name, tmp_path, **options):
    fetch(name, tmp_path / "raw", mirror=MIRROR)
    folder = prepare(resolve(name, options), tmp_path / "raw", tmp_path / "prepared")
    return folder, open_dataset(folder)


@pytest.mark.parametrize("name", [name for name in REMOTE if name not in ELSEWHERE])
def test_every_remote_file_is_in_the_mirror_and_verified(name, tmp_path):
    manifest = read_json(fetch(name, tmp_path, mirror=MIRROR) / "manifest.json")
    expected = {file.name: f"mirror: {file.mirror}" for file in entry(name).files if file.mirror}
    assert {row["file"]: row["source"] for row in manifest["files"]}.items() >= expected.items()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_the_mirror_lacks_says_where_it_is_and_where_to_put_it(name, tmp_path):
    with pytest.raises(UserError) as caught:
        fetch(name, tmp_path, mirror=MIRROR, offline=True)
    said, file = str(caught.value), entry(name).files[0]
    assert (
        f"file '{file.name}' of dataset '{name}' was not fetched: mirror {MIRROR}: {file.mirror}: no such file" in said
    )
    assert f"What to do: {entry(name).obtain.rstrip('.')}" in said
    assert f"get it from {file.urls[0]} by other means and put it at {tmp_path / name / file.name}" in said
    assert f"put a right copy at {file.mirror} below `mirror`" in said
    assert not list(tmp_path.rglob("*.*"))


def test_static_mnist_is_the_published_draw(tmp_path):
    folder, data = prepared("mnist-static", tmp_path)
    facts = data.certificate["splits"]
    # Rows and numbers of ones of the published files.
    ones = {"train": (50_000, 5_118_041), "validation": (10_000, 1_028_036), "test": (10_000, 1_038_896)}
    for split, (rows, count) in ones.items():
        assert facts[split]["rows"] == rows
        assert facts[split]["mean"] == count / (rows * 784)
    assert set(data.certificate["shared_rows"].values()) == {0}
    assert certificate.verify(folder) == []


def test_bsds_patches_come_from_200_and_100_images_and_agree_with_the_published_gaussian(tmp_path):
    folder, data = prepared("bsds300", tmp_path, train=100_000, validation=5_000, test=100_000)
    assert {split: len(np.unique(parts.groups)) for split, parts in data.splits.items()} == {
        "train": 180,
        "validation": 20,
        "test": 100,
    }
    assert set(data.certificate["shared_groups"].values()) == {0}
    assert set(data.certificate["shared_rows"].values()) == {0}
    assert certificate.verify(folder) == []
    train, test = data.train.x.astype(np.float64), data.test.x.astype(np.float64)
    factor = np.linalg.cholesky(np.cov(train.T))
    z = np.linalg.solve(factor, (test - train.mean(axis=0)).T)
    log_prob = -0.5 * (z**2).sum(axis=0) - np.log(np.diag(factor)).sum() - 31.5 * np.log(2 * np.pi)
    # Published: 96.67 ± 0.25 nats, on the same 100 images. Patches within an image and of one training draw
    # leave a standard deviation of about 0.3, so that 1.5 nats are five of them.
    assert abs(log_prob.mean() - 96.67) < 1.5
