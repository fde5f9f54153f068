"""Reconstructions: the score is the cross-entropy of what is drawn, and the figure draws it."""

import numpy as np
import pandas as pd
import pytest
import torch

from dgmbench.assemble.figures import reconstructions as figure
from dgmbench.assemble.figures.base import FigureData, style
from dgmbench.data.prepared import Dataset, Split
from dgmbench.estimators import reconstructions
from dgmbench.estimators.base import Workbench
from dgmbench.models.base import Reconstruction

X = (np.random.default_rng(0).random((40, 16)) < 0.4).astype(np.uint8)
DATA = Dataset("small", "small", "binary", (4, 4), {n: Split(X) for n in ("train", "validation", "test")}, {})


class Memory(Reconstruction):
    """Gives every example back with a known probability; random where `spread` says so."""

    def __init__(self, keep: float, spread: float = 0.0):
        self.keep, self.spread = keep, spread

    def reconstruct(self, x, steps, generator):
        keep = self.keep - self.spread * torch.rand(x.shape, generator=generator)
        return torch.where(x > 0, keep, 1 - keep) if steps < 3 else torch.full_like(x, 0.5)

    def filters(self):
        return torch.arange(160.0).reshape(10, 16)


def found(model, **settings):
    bench = Workbench(torch.Generator().manual_seed(1))
    return reconstructions.estimate(model, DATA, reconstructions.Settings(**settings), bench)


def test_score_is_the_cross_entropy_of_the_examples():
    (number,) = found(Memory(0.9), steps=2).numbers
    assert number.value == pytest.approx(-16 * np.log(0.9), rel=1e-6)
    assert number.estimator_se == pytest.approx(0, abs=1e-6)
    assert found(Memory(0.9), steps=3).numbers[0].value == pytest.approx(16 * np.log(2), rel=1e-6)


def test_means_that_rounding_made_certain_cost_what_is_finite():
    assert np.isfinite(found(Memory(0.0), steps=1).numbers[0].value)


def test_error_over_chains_is_that_of_a_mean():
    few, many = (found(Memory(0.9, spread=0.5), steps=1, chains=c).numbers[0] for c in (2, 50))
    # Variances over 2 chains of 40 examples scatter by about a fifth, over 50 chains by less.
    assert few.estimator_se / many.estimator_se == pytest.approx(5, rel=0.6)
    assert abs(few.value - many.value) < 5 * few.estimator_se


def test_arrays_are_examples_from_all_over_the_split_and_the_first_hidden_units():
    arrays = found(Memory(0.9), steps=2, count=9, fields=4).arrays
    shown = X[[2, 6, 11, 15, 20, 24, 28, 33, 37]]  # of 40
    np.testing.assert_array_equal(arrays["inputs"], shown)
    np.testing.assert_allclose(arrays["reconstructions"], np.where(shown > 0, 0.9, 0.1), rtol=1e-6)
    assert arrays["fields"].shape == (4, 16)
    assert arrays["steps"].tolist() == [2]


def figure_data(arrays, missing=None) -> FigureData:
    cells = pd.DataFrame({"row": [*arrays, *(missing or {})]})
    labels = {"one": "RBM", "other": "DBN"}
    return FigureData(
        "",
        cells,
        {},
        {},
        {},
        {},
        labels,
        arrays={"reconstructions": arrays},
        missing_arrays={"reconstructions": missing or {}},
    )


def test_figure_has_a_line_of_panels_for_each_row_and_says_what_is_missing():
    arrays = found(Memory(0.9), steps=2, count=9, fields=4).arrays
    with style():
        drawn = figure.draw(figure_data({"one": arrays}, {"other": "not on this machine"}), figure.Options())
    first, second = drawn.axes[:3], drawn.axes[3:]
    assert [axes.get_title(loc="left") for axes in drawn.axes if axes.get_title(loc="left")] == ["a  RBM", "b  DBN"]
    assert [axes.texts[0].get_text() for axes in first] == ["input", "after 2 Gibbs steps", "receptive fields"]
    assert second[0].texts[0].get_text() == "not on this machine"
    shown = first[0].images[0].get_array()
    np.testing.assert_array_equal(shown[:4, :4], X[2].reshape(4, 4))
    np.testing.assert_array_equal(shown[:4, 5:9], X[6].reshape(4, 4))
    assert first[2].images[0].get_array().shape == (9, 9)


def test_figure_leaves_fields_out_and_draws_vectors_as_lines():
    arrays = found(Memory(0.9), steps=1, count=4).arrays
    vectors = {name: value[:, :5] if value.ndim == 2 else value for name, value in arrays.items()}
    with style():
        drawn = figure.draw(figure_data({"one": vectors}), figure.Options(fields=False))
        assert len(drawn.axes) == 2
        assert drawn.axes[1].images[0].get_array().shape == (4, 5)
        empty = figure.draw(figure_data({}, {"one": "failed: refused"}), figure.Options())
    assert "failed: refused" in empty.axes[0].texts[0].get_text()
