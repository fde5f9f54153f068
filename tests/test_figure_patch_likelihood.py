"""The figure of patch likelihoods with layered models: every one has its own place and the sizes of its layers."""

import numpy as np
import pandas as pd
import pytest

from dgmbench.assemble.figures import patch_likelihood
from dgmbench.assemble.figures.base import FigureData, style


def row(name: str, components, obtained: float, split: str = "test", published: float = np.nan) -> dict:
    parameters = {} if components is None else {"components": components}
    return {
        **{"row": f"{name} {components}", "row_name": name, "label": name, "parameters": parameters, "variant": ""},
        **{"metric": "log_likelihood", "unit": "nats", "kind": "exact", "evaluation_name": split, "column": split},
        **{"obtained": obtained, "test_se": 3.0, "published": published, "published_source": "a paper"},
        **{"verdict": "reproduced", "control": False},
    }


@pytest.fixture
def panels():
    cells = [
        row("gaussian", None, 96.6, published=96.67),
        *(row("gmm", k, value) for k, value in ((1, 96.6), (20, 148.0), (100, 152.4))),
        *(row("two", sizes, value) for sizes, value in (([20, 5], 151.8), ([20, 10], 152.6), ([100, 5], 154.0))),
        *(row("three", sizes, value) for sizes, value in (([20, 5, 5], 153.4), ([40, 5, 20], 155.1))),
        row("two", [20, 5], 164.8, split="validation"),
        row("best", None, np.nan, published=156.2),
    ]
    with style():
        data = FigureData("made up", pd.DataFrame(cells), {}, {}, {}, {}, {})
        figure = patch_likelihood.draw(data, patch_likelihood.Options())
        figure.draw_without_rendering()
        return figure.axes


def test_layered_models_of_one_top_layer_stand_beside_each_other(panels):
    lines = {line.get_label(): line.get_xydata() for line in panels[1].get_lines()}
    assert list(lines["gmm"][:, 0]) == [1, 20, 100]
    assert [*lines["two"][:, 1], *lines["three"][:, 1]] == [151.8, 152.6, 154.0, 153.4, 155.1]
    near = [x for name in ("two", "three") for x, _ in lines[name] if 15 < x < 25]
    assert len(set(near)) == 3
    assert np.exp(np.mean(np.log(near))) == pytest.approx(20)
    assert lines["two"][-1, 0] == 100
    assert lines["three"][-1, 0] == 40


def test_each_is_named_by_its_layers_and_published_numbers_stand_where_their_range_is(panels):
    above, below = ({text.get_text() for text in panel.texts} for panel in panels)
    assert below == {"20-5", "20-10", "100-5", "20-5-5", "40-5-20", "published 156.2: best None"}
    assert above == {"published 96.67: gaussian None"}
    low, high = panels[1].get_ylim()
    assert 148.0 < low < 151.8
    assert 156.2 < high < 158


def test_the_other_splits_are_in_the_first_panel_alone(panels):
    values = [{value for line in panel.get_lines() for value in line.get_ydata()} for panel in panels]
    assert 164.8 in values[0]
    assert 164.8 not in values[1]


def test_many_published_numbers_are_ticks_where_none_of_ours_stands_beside(panels):
    cells = [row("two", sizes, value) for sizes, value in (([20, 5], 151.8), ([100, 5], 154.0))]
    cells += [row("ours", None, 153.0, published=153.7)]
    cells += [row(f"other {i}", None, np.nan, published=152.0 + i / 2) for i in range(7)]
    with style():
        data = FigureData("made up", pd.DataFrame(cells), {}, {}, {}, {}, {})
        _, below = patch_likelihood.draw(data, patch_likelihood.Options()).axes
    texts = {text.get_text(): text for text in below.texts}
    assert "published 153.7: ours None" in texts
    assert [name for name in texts if name.startswith("published")] == ["published 153.7: ours None"]
    ticks = [text for name, text in texts.items() if "other" in name]
    assert len(ticks) == 7
    assert all(text.get_position()[0] > 1 for text in ticks)
