"""Patches of photographs: images kept apart, every place drawn, noise as the equation says, bits that repeat."""

import io
import tarfile
from fractions import Fraction

import numpy as np
import preparing
import pytest
from PIL import Image

from dgmbench.data import certificate, draws, patches
from dgmbench.data.loading import Description, Writer
from dgmbench.data.prepare import open_dataset, prepare
from dgmbench.errors import UserError

contents, made, own, saved = preparing.contents, preparing.made, preparing.own, preparing.saved


def photographs(n_train=6, n_test=3, side=(24, 16)) -> bytes:
    """A BSDS-like tgz of small noise images."""
    generator = np.random.Generator(np.random.PCG64(5))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for number in range(n_train + n_test):
            pixels = generator.integers(0, 256, (*side, 3), dtype=np.uint8)
            content = saved(lambda out, image: image.save(out, "JPEG"), Image.fromarray(pixels))
            info = tarfile.TarInfo(f"BSDS300/images/{'train' if number < n_train else 'test'}/{1000 + number}.jpg")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


COUNTS = {"train": 300, "validation": 40, "test": 50, "validation_images": 2}


def test_bsds_keeps_images_apart_and_repeats_to_the_byte(own, tmp_path):
    ref = own({"BSDS300-images.tgz": photographs()}, "bsds", members="*.jpg", **COUNTS)
    folder = prepare(ref, tmp_path / "raw", tmp_path / "one")
    assert contents(folder) == contents(prepare(ref, tmp_path / "raw", tmp_path / "two"))
    data = open_dataset(folder)
    assert data.dimension == 63
    assert [len(split) for split in data.splits.values()] == [300, 40, 50]
    groups = {split: set(parts.groups.tolist()) for split, parts in data.splits.items()}
    assert groups["test"] == {1006, 1007, 1008}
    assert len(groups["validation"]) == 2
    assert groups["train"] | groups["validation"] == set(range(1000, 1006))
    assert set(data.certificate["shared_groups"].values()) == {0}
    assert certificate.verify(folder) == []


def test_bsds_with_too_few_images_is_told(own, tmp_path):
    ref = own({"BSDS300-images.tgz": photographs(2, 1)}, "bsds", members="*.jpg", **COUNTS)
    with pytest.raises(UserError, match="2 training and 1 test images"):
        made(ref, tmp_path)


def test_a_member_that_is_no_image_is_told(own, tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("BSDS300/images/train/1.jpg"))
    ref = own({"BSDS300-images.tgz": stream.getvalue()}, "bsds", members="*.jpg")
    with pytest.raises(UserError, match=r"train/1\.jpg is not an image"):
        made(ref, tmp_path)


def test_dequantized_values_are_the_rounded_exact_equation():
    bits = draws.stream(1)
    values, noise = draws.below(bits, 256, 5 * 64).reshape(5, 64), draws.noise24(bits, 5 * 64).reshape(5, 64)
    values[0], noise[0] = 0, 0
    values[1, 0], noise[1, 0] = 255, 2**24 - 1
    x = patches.dequantized(values.astype(np.uint8), noise)
    for row in range(5):
        u = [(v + Fraction(e, 2**24)) / 256 for v, e in zip(values[row].tolist(), noise[row].tolist())]
        mean = sum(u) / 64
        expected = np.array([float(value - mean) for value in u[:-1]], dtype=np.float64).astype(np.float32)
        np.testing.assert_array_equal(x[row], expected)


@pytest.fixture
def patches_of(tmp_path):
    def write(name, images, n=400, patch=3, seed=0):
        (tmp_path / name).mkdir()
        writer = Writer(tmp_path / name, Description("real", (patch**2 - 1,)))
        patches.write_patches(writer, "train", images, range(len(images)), n, patch, seed)
        return np.load(tmp_path / name / "train.npy"), np.load(tmp_path / name / "train_groups.npy")

    return write


def test_each_patch_is_one_of_its_image_and_every_place_is_drawn(patches_of):
    generator = np.random.Generator(np.random.PCG64(11))
    images = [generator.integers(0, 256, size, dtype=np.uint8) for size in [(5, 7), (6, 4), (3, 3)]]
    # 3 images with 15, 8 and 1 places: the chance that 3,000 uniform draws miss one of the rarest places
    # (probability 1/45) is below 15 (44/45)^3000 < 1e-27.
    x, groups = patches_of("a", images, n=3000)
    for group, image in enumerate(images):
        places = np.lib.stride_tricks.sliding_window_view(image, (3, 3)).reshape(-1, 9) / 256
        centred = (places - places.mean(axis=1, keepdims=True))[:, :-1]
        distance = np.abs(x[groups == group][:, None] - centred).max(axis=2)
        # The noise less its mean moves a value by less than 1/256.
        assert (distance.min(axis=1) < 1 / 256).all()
        assert set(distance.argmin(axis=1)) == set(range(len(places)))


def test_the_size_of_a_chunk_changes_no_bit(patches_of, monkeypatch):
    images = [np.arange(64, dtype=np.uint8).reshape(8, 8), np.arange(100, dtype=np.uint8).reshape(5, 20)]
    whole = patches_of("a", images)
    monkeypatch.setattr(patches, "_CHUNK", 7)
    for one, other in zip(whole, patches_of("b", images)):
        np.testing.assert_array_equal(one, other)
    assert (whole[0] != patches_of("c", images, seed=1)[0]).any()


def test_an_image_smaller_than_a_patch_is_told(patches_of):
    with pytest.raises(UserError, match="no patch of 3 x 3"):
        patches_of("a", [np.zeros((2, 9), dtype=np.uint8)])


def test_raw_bits_are_those_that_numpy_promises():
    # PCG64 seeded by SeedSequence([0, 1]): if these move, every prepared dataset does.
    assert draws.below(draws.stream(0, 1), 1000, 5).tolist() == [889, 557, 800, 956, 58]


def test_draws_are_uniform_and_normal():
    n, bits = 200_000, draws.stream(42)
    counts = np.bincount(draws.below(bits, 7, n), minlength=7)
    # Chi-square with 6 degrees of freedom: above 38.3 with probability 1e-6.
    assert ((counts - n / 7) ** 2 / (n / 7)).sum() < 38.3
    assert sorted(draws.permutation(bits, 1000).tolist()) == list(range(1000))
    z = draws.normal(bits, n)
    # Means of z and z^2 lie within 5 standard errors, except with probability 1.2e-6.
    assert abs(z.mean()) < 5 / n**0.5
    assert abs((z**2).mean() - 1) < 5 * (2 / n) ** 0.5
    noise = draws.noise24(bits, n)
    assert noise.min() >= 0
    assert noise.max() < 2**24
    assert abs(noise.mean() / 2**24 - 0.5) < 5 * (1 / 12 / n) ** 0.5
