"""Mini dead leaves of BSDS300: the texture comes from the 200 training images and from nothing else."""

import os

import pytest

from dgmbench.data import certificate
from dgmbench.data.catalogue import resolve
from dgmbench.data.fetch import fetch
from dgmbench.data.prepare import open_dataset, prepare

MIRROR = os.environ.get("DGMBENCH_MIRROR")
pytestmark = pytest.mark.skipif(not MIRROR, reason="DGMBENCH_MIRROR names no mirror of the real files")


def test_the_texture_is_that_of_the_training_images(tmp_path):
    fetch("mini-dead-leaves-bsds", tmp_path / "raw", mirror=MIRROR)
    ref = resolve("mini-dead-leaves-bsds", {"train": 5000, "validation": 100, "test": 100})
    folder = prepare(ref, tmp_path / "raw", tmp_path / "prepared")
    data = open_dataset(folder)
    notes = data.certificate["notes"]
    assert notes["images"] == 200
    scales, weights = notes["texture"]["scales_grey_levels"], notes["texture"]["weights"]
    # Natural contrast has heavy tails: the scales spread over more than one order of magnitude, none is unused.
    assert scales[-1] > 20 * scales[0] > 0
    assert min(weights) > 0.02
    assert set(data.certificate["shared_rows"].values()) == {0}
    assert certificate.verify(folder) == []
