"""Densities on a grid: the mass is that of closed forms, the grid lies as it says, and the plane has two dimensions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import density_plane
from dgmbench.estimators.base import Workbench
from dgmbench.models.base import Density, Sampler

MEAN, SD = np.array([0.5, -1.0]), np.array([1.5, 0.4])


class Normal(Density):
    """Independent normals: the mass of a rectangle is a product of two differences of distribution functions."""

    spec = SimpleNamespace()

    def log_prob(self, x):
        return torch.from_numpy(stats.norm(MEAN, SD).logpdf(x.numpy()).sum(1))


class Layered(Normal, Sampler):
    spec = SimpleNamespace(components=(3, 2))

    def sample(self, n, generator):
        return self.sample_path(n, generator)[0]

    def sample_path(self, n, generator):
        z = torch.randn((n, 2), generator=generator, dtype=torch.float64)
        half = z * torch.from_numpy(SD)
        x = half + torch.from_numpy(MEAN)
        return x.float(), torch.tensor([[2, 0]]).repeat(n, 1), torch.stack([z, half, x])


def dataset(x) -> Dataset:
    return Dataset("made-up", "made-up-1", "real", x.shape[1:], {"test": Split(x.astype(np.float32))}, {})


@pytest.fixture
def data() -> Dataset:
    return dataset(np.random.default_rng(3).normal(MEAN, SD, (400, 2)))


def run(model, data, **settings):
    bench = Workbench(torch.Generator().manual_seed(8))
    return density_plane.estimate(model, data, density_plane.Settings(**settings), bench)


@pytest.mark.parametrize("margin", [0.0, 0.1, 1.0])
def test_the_mass_is_that_of_the_rectangle(data, margin):
    found = run(Normal(), data, margin=margin, points=300)
    x = data.splits["test"].x.astype(np.float64)
    reach = margin * (x.max(0) - x.min(0))
    low, high = x.min(0) - reach, x.max(0) + reach
    assert np.allclose(found.arrays["extent"], [low[0], high[0], low[1], high[1]])
    expected = np.prod(stats.norm(MEAN, SD).cdf(high) - stats.norm(MEAN, SD).cdf(low))
    assert found.numbers[0].value == pytest.approx(expected, abs=2e-5)
    assert 0.9 < expected <= 1


def test_rows_of_the_grid_run_along_the_second_coordinate(data):
    arrays = run(Normal(), data, points=41).arrays
    left, right, bottom, top = arrays["extent"]
    x = left + (np.arange(41) + 0.5) * (right - left) / 41
    y = bottom + (np.arange(41) + 0.5) * (top - bottom) / 41
    expected = stats.norm(MEAN[1], SD[1]).pdf(y)[:, None] * stats.norm(MEAN[0], SD[0]).pdf(x)[None, :]
    np.testing.assert_allclose(arrays["density"], expected, rtol=1e-6)


def test_a_mass_above_one_tells_of_cells_wider_than_the_density():
    centre = np.array([[-4.0, -4.0], [4.0, 4.0]])

    class Spike(Normal):
        def log_prob(self, x):
            return torch.from_numpy(stats.norm(0, 0.05).logpdf(x.numpy()).sum(1))

    assert run(Spike(), dataset(centre), points=3, margin=0).numbers[0].value > 100
    assert run(Spike(), dataset(centre), points=800, margin=0).numbers[0].value == pytest.approx(1, abs=1e-4)


def test_a_layered_model_gives_its_first_path_and_others_none(data):
    arrays = run(Layered(), data, samples=7).arrays
    assert arrays["layers"].tolist() == [3, 2]
    assert arrays["path"].tolist() == [2, 0]
    assert arrays["trail"].shape == (3, 2)
    assert np.allclose(arrays["trail"][0] * SD + MEAN, arrays["trail"][2])
    assert arrays["samples"].shape == (7, 2)
    plain = run(Normal(), data).arrays
    assert plain["layers"].tolist() == [1]
    assert not {"samples", "trail", "path"} & plain.keys()


def test_only_the_examples_asked_for_are_scored(data):
    arrays = run(Normal(), data, examples=50).arrays
    np.testing.assert_array_equal(arrays["data"], data.splits["test"].x[:50])


def test_three_dimensions_a_point_and_infinite_densities_are_refused(data):
    with pytest.raises(CannotBeDone, match="have 3 values: choose a dataset with two"):
        run(Normal(), dataset(np.zeros((5, 3))))
    with pytest.raises(CannotBeDone, match="span no area: raise the setting 'examples'"):
        run(Normal(), data, examples=1)

    class Infinite(Normal):
        def log_prob(self, x):
            return torch.where(x[:, 0] > MEAN[0], torch.inf, 0.0)

    with pytest.raises(CannotBeDone, match="not finite at"):
        run(Infinite(), data)


def test_predicted_work_is_the_number_of_points():
    assert density_plane.scorings(density_plane.Settings(points=30), 10) == 900
