"""The figures of latent-variable models draw what their estimators give, and say what is missing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dgmbench.assemble.figures import latent_grid, likelihood_error
from dgmbench.assemble.figures.base import FORMATS, FigureData, save, style
from dgmbench.config import load_experiments
from dgmbench.estimators import latent_ais


def grid_data(arrays: dict, missing: dict | None = None) -> FigureData:
    cells = pd.DataFrame({"row": [*arrays, *(missing or {})]})
    by_estimator = {"arrays": {"latent_grid": arrays}, "missing_arrays": {"latent_grid": missing or {}}}
    return FigureData("", cells, {}, {}, {"one": (2, 2)}, {}, {"one": "VAE"}, **by_estimator)


def test_grid_is_drawn_with_the_second_variable_upwards_and_the_square_among_the_means():
    pictures = np.linspace(0, 1, 36).reshape(9, 4)
    means = np.array([[0.0, 0.0], [1.0, -3.0], [0.5, 0.2]])
    arrays = {"pictures": pictures, "reach": np.array([2.0]), "means": means, "labels": np.array([0, 1, 1])}
    with style():
        drawn = latent_grid.draw(grid_data({"one": arrays}, {"other": "failed: refused"}), latent_grid.Options())
    grid, scatter, absent = drawn.axes[:3]
    image = grid.images[0]
    np.testing.assert_allclose(image.get_array()[:2, :2], pictures[0].reshape(2, 2))
    assert tuple(image.get_extent()) == (-2, 2, -2, 2)
    assert [len(line.get_xdata()) for line in scatter.lines] == [1, 2]
    assert scatter.patches[0].get_width() == 4
    assert "failed: refused" in absent.texts[0].get_text()


def test_grid_of_vectors_shows_their_first_value():
    arrays = {"pictures": np.arange(12.0).reshape(4, 3), "reach": np.array([1.0])}
    with style():
        drawn = latent_grid.draw(grid_data({"two": arrays}), latent_grid.Options())
    np.testing.assert_array_equal(drawn.axes[0].images[0].get_array(), [[0, 3], [6, 9]])


def error_cells() -> pd.DataFrame:
    made = [("quadrature", {}, -10.0, 0.0)]
    made += [("prior", {"k": k}, -10 - 10 / k, 1 / k) for k in (100, 10)] + [
        ("annealing", {"temperatures": 50}, -9.9, 0.1)
    ]
    return pd.DataFrame(
        {
            "row": "vae",
            "evaluation_name": [name for name, *_ in made],
            "metric": "log_likelihood",
            "settings": [settings for _, settings, *_ in made],
            "obtained": [value for _, _, value, _ in made],
            "estimator_se": [se for *_, se in made],
            "converged": None,
        }
    )


def test_errors_are_differences_from_the_truth_over_the_work():
    data = FigureData("", error_cells(), {}, {}, {}, {}, {"vae": "VAE"})
    options = {"truth": "quadrature", "work": {"prior": ["k", 1], "annealing": ["temperatures", 20]}}
    with style():
        drawn = likelihood_error.draw(data, likelihood_error.Options(**options))
        empty = likelihood_error.draw(data, likelihood_error.Options(**options | {"truth": "enumeration"}))
    containers = {container.get_label(): container.lines[0] for container in drawn.axes[0].containers}
    assert set(containers) == {"prior", "annealing"}
    np.testing.assert_array_equal(containers["prior"].get_xdata(), [10, 100])
    np.testing.assert_allclose(containers["prior"].get_ydata().astype(float), [-1, -0.1])
    assert containers["annealing"].get_xdata() == [1000]
    assert containers["annealing"].get_ydata() == pytest.approx([0.1])
    np.testing.assert_allclose(drawn.axes[1].lines[0].get_ydata().astype(float), [0.1, 0.01])
    assert "No estimate" in empty.axes[0].texts[0].get_text()
    cells = data.cells.assign(converged=[None, False, True, None])
    with style():
        drawn = likelihood_error.draw(replace(data, cells=cells), likelihood_error.Options(**options))
    (hollow,) = [line for line in drawn.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert hollow.get_xydata().tolist() == [[100, pytest.approx(-0.1)]]
    assert drawn.legends[0].get_title().get_text() == "hollow: not converged"


def test_estimates_without_spread_are_no_line_on_a_logarithmic_axis(tmp_path):
    cells = error_cells().assign(estimator_se=0.0)
    options = likelihood_error.Options(truth="quadrature", work={"prior": ["k", 1]})
    with style():
        drawn = likelihood_error.draw(FigureData("", cells, {}, {}, {}, {}, {"vae": "VAE"}), options)
        assert len(save(drawn, tmp_path, "errors")) == len(FORMATS)
    assert "no draw differs" in drawn.axes[1].texts[0].get_text()


@pytest.mark.parametrize(("name", "passes_of_a_gradient"), [("estimating-p-of-x", 2), ("estimating-p-of-a-mixture", 1)])
def test_the_work_of_annealing_is_what_it_does_at_a_temperature(name, passes_of_a_gradient):
    """The decoder's passes, forward and backward; a mixture's densities are counted once for a gradient too."""

    class Counting:
        latent_dimension, passes = 2, 0

        def log_prob_x_given_u(self, x, u):
            self.passes += passes_of_a_gradient if torch.is_grad_enabled() else 1
            return -u.square().sum(1)

    experiment = load_experiments()[name]
    settings = {**experiment.evaluations["annealing"].settings, "temperatures": 2}
    (setting, work), settings = experiment.figure.options["work"]["annealing"], latent_ais.Settings(**settings)
    model, generator = Counting(), torch.Generator().manual_seed(0)
    path = latent_ais.PosteriorPath(model, torch.zeros(3, 1), settings.leapfrog, settings.step_size)
    state = path.sample_base(3, generator)
    path.log_ratio(state, 0.0, 0.5)
    path.step(state, 0.5, generator)
    assert (setting, work) == ("temperatures", settings.chains * model.passes)
