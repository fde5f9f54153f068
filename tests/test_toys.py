"""The toy densities: the points lie where the module says, in the stated proportions and numbers."""

import numpy as np
import pytest

from dgmbench.data.catalogue import resolve
from dgmbench.data.prepare import open_dataset, prepare


def points(name, tmp_path, **options):
    folder = prepare(resolve(name, options), tmp_path / "raw", tmp_path / "prepared")
    return open_dataset(folder)


@pytest.mark.parametrize(
    ("name", "count"), [("toys-two-moons", 4000), ("toys-moon-circle", 4000), ("toys-two-circles", 4500)]
)
def test_the_clustering_toys_have_the_papers_number_of_points_and_two_components(name, count, tmp_path):
    data = points(name, tmp_path)
    assert data.train.x.shape == (count, 2)
    assert set(np.unique(data.train.labels)) == {0, 1}
    assert data.train.x.std(0).min() > 0.3


@pytest.mark.parametrize(
    ("name", "inner"), [("toys-two-circles", 1 / 3), ("toys-rings", 1 / 2)], ids=["by length", "equally"]
)
def test_points_of_two_circles_are_on_them_and_uniform_in_angle(name, inner, tmp_path):
    data = points(name, tmp_path, noise=0.0, train=30_000)
    x, labels = np.asarray(data.train.x, dtype=float), np.asarray(data.train.labels)
    np.testing.assert_allclose(np.hypot(*x.T), 1.0 + labels, rtol=1e-6)
    # Five standard deviations of a proportion of 30,000 draws.
    assert abs((labels == 0).mean() - inner) < 5 * np.sqrt(inner * (1 - inner) / len(x))
    for component in (0, 1):
        z = np.exp(1j * np.angle(x[labels == component] @ [1, 1j]))
        for order in (1, 2, 3):
            assert abs((z**order).mean()) < 5 / np.sqrt(len(z))


def test_moons_are_half_circles_that_interlock(tmp_path):
    data = points("toys-two-moons", tmp_path, noise=0.0)
    x, labels = np.asarray(data.train.x, dtype=float), np.asarray(data.train.labels)
    upper, lower = x[labels == 0], x[labels == 1] - [1.0, 0.5]
    np.testing.assert_allclose(np.hypot(*upper.T), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.hypot(*lower.T), 1.0, rtol=1e-5)
    assert upper[:, 1].min() >= 0
    assert lower[:, 1].max() <= 1e-6


def test_a_half_circle_surrounds_a_circle(tmp_path):
    data = points("toys-moon-circle", tmp_path, noise=0.0)
    x, labels = np.asarray(data.train.x, dtype=float), np.asarray(data.train.labels)
    np.testing.assert_allclose(np.hypot(*x[labels == 0].T), 2.0, rtol=1e-6)
    np.testing.assert_allclose(np.hypot(*(x[labels == 1] - [0.0, 0.5]).T), 0.5, rtol=1e-5)


def test_the_checkerboard_is_uniform_on_eight_squares(tmp_path):
    data = points("toys-checkerboard", tmp_path, train=16_000)
    column, row = np.floor(np.asarray(data.train.x)).astype(int).T
    assert ((column + row) % 2 == 0).all()
    _, counts = np.unique(4 * column + row, return_counts=True)
    assert len(counts) == 8
    # Chi-square with 7 degrees of freedom exceeds 40 with probability 1e-6.
    assert ((counts - 2000) ** 2 / 2000).sum() < 40


def test_noise_has_the_stated_width(tmp_path):
    still = points("toys-eight-gaussians", tmp_path / "still", noise=0.0)
    moved = points("toys-eight-gaussians", tmp_path / "moved", noise=0.2)
    noise = np.asarray(moved.train.x, dtype=float) - np.asarray(still.train.x, dtype=float)
    # The standard deviation of 8,000 normal values is known to 0.2 / sqrt(16,000) = 0.0016.
    assert abs(noise.std() - 0.2) < 5 * 0.0016
    assert abs(np.corrcoef(noise.T)[0, 1]) < 5 / np.sqrt(len(noise))
