"""The cost figure: what is drawn is what the cells say, the exponents are those of the cells, axes carry units."""

import numpy as np
import pandas as pd
import pytest

from dgmbench.assemble.figures import em_cost
from dgmbench.assemble.figures.base import FORMATS, FigureData, save, style

LAWS = {"examples": 1.0, "components": 1.0, "dimensions": 2.0}
SIZES = {
    "examples": [5000, 16000, 50000, 160000, 500000],
    "components": [10, 20, 50, 100, 200],
    "dimensions": [4, 8, 16, 32, 63],
}
# (precision, metric) -> seconds at the base size
SECONDS = {
    ("float32", "seconds_per_iteration"): 0.3,
    ("float64", "seconds_per_iteration"): 0.7,
    ("float32", "peer_seconds_per_iteration"): 1.9,
    ("float64", "peer_seconds_per_iteration"): 2.4,
}


def cell(axis, size, precision, metric, value, **changes):
    settings = {"precision": precision, axis: size}
    return {
        "row": "mixture",
        "row_name": "mixture",
        "label": "Gaussian mixture",
        "column": f"over-{axis} precision={precision} {axis}={size}",
        "evaluation_name": f"over-{axis}",
        "estimator": "em_cost",
        "metric": metric,
        "obtained": value,
        "estimator_se": 0.03 * value,
        "settings": settings,
        **changes,
    }


def made_up(wobble=0.0, axes=tuple(LAWS), **changes):
    """Times that follow the laws exactly, or with a wobble of so much in their logarithm."""
    generator = np.random.default_rng(3)
    rows = []
    for axis in axes:
        for size in SIZES[axis]:
            times = {
                key: base * (size / SIZES[axis][2]) ** LAWS[axis] * np.exp(wobble * generator.standard_normal())
                for key, base in SECONDS.items()
            }
            for (precision, metric), value in times.items():
                rows.append(cell(axis, size, precision, metric, value, **changes))
            for precision in ("float32", "float64"):
                ratio = times[precision, "peer_seconds_per_iteration"] / times[precision, "seconds_per_iteration"]
                rows.append(cell(axis, size, precision, "speed_ratio", ratio, **changes))
                rows.append(cell(axis, size, precision, "gemm_share", 0.8, **changes))
    return pd.DataFrame(rows)


def figure_data(cells):
    return FigureData("cost", cells, {}, {}, {}, {}, {})


@pytest.fixture(autouse=True)
def _style():
    with style():
        yield


def exponents(panel, expected="exponent"):
    (text,) = panel.texts
    heading, *lines = text.get_text().split("\n")
    assert heading == expected
    return {name: tuple(map(float, told.split(" ± "))) for name, told in (line.split(": ") for line in lines)}


def test_a_column_for_each_size_with_units_and_log_axes():
    figure = em_cost.draw(figure_data(made_up()), em_cost.Options())
    above, below = figure.axes[:3], figure.axes[3:]
    assert [panel.get_title(loc="left") for panel in above] == ["a  examples", "b  components", "c  dimensions"]
    assert all(panel.get_xscale() == "log" and panel.get_yscale() == "log" for panel in above)
    assert [panel.get_xlabel() for panel in below] == [f"{axis} [count]" for axis in LAWS]
    assert above[0].get_ylabel() == "EM iteration [seconds]"
    assert below[0].get_ylabel().endswith("[ratio]")


def test_exact_powers_are_recovered_and_written_for_every_series():
    figure = em_cost.draw(figure_data(made_up()), em_cost.Options())
    for panel, law in zip(figure.axes[:3], LAWS.values()):
        told = exponents(panel)
        assert list(told) == ["ours, float32", "ours, float64", "scikit-learn, float32", "scikit-learn, float64"]
        assert all(slope == law and error == 0 for slope, error in told.values())


def test_noisy_powers_are_recovered_within_their_standard_errors():
    figure = em_cost.draw(figure_data(made_up(wobble=0.1)), em_cost.Options())
    for panel, law in zip(figure.axes[:3], LAWS.values()):
        for slope, error in exponents(panel).values():
            assert 0 < error < 0.1
            assert abs(slope - law) < 5 * error


def test_exponents_that_the_table_has_are_the_ones_written():
    table = [
        cell(axis, 0, precision, metric, value, evaluation_name=f"scaling-{axis}", estimator="em_scaling")
        | {"estimator_se": 0.04, "settings": {"precision": precision}}
        for axis in LAWS
        for precision, shift in (("float32", 0.0), ("float64", 0.01))
        for metric, value in (("exponent", LAWS[axis] - 0.1 + shift), ("peer_exponent", LAWS[axis] + 0.1 + shift))
    ]
    figure = em_cost.draw(figure_data(pd.concat([made_up(), pd.DataFrame(table)])), em_cost.Options())
    for panel, law in zip(figure.axes[:3], LAWS.values()):
        told = exponents(panel, "exponent, as in the table")
        wanted = [law - 0.1, law - 0.09, law + 0.1, law + 0.11]
        assert list(told.values()) == [(pytest.approx(value), 0.04) for value in wanted]


def test_points_are_the_cells():
    cells = made_up(wobble=0.1)
    figure = em_cost.draw(figure_data(cells), em_cost.Options())
    drawn = [np.asarray(line.get_ydata(), float) for line in figure.axes[0].get_lines()]
    for (precision, metric), _ in SECONDS.items():
        chosen = (cells["metric"] == metric) & (cells["evaluation_name"] == "over-examples")
        own = [
            value
            for value, s in zip(cells[chosen]["obtained"], cells[chosen]["settings"], strict=True)
            if s["precision"] == precision
        ]
        assert any(len(ys) == len(own) and np.allclose(ys, own) for ys in drawn)
    ratios = cells[(cells["metric"] == "speed_ratio") & (cells["evaluation_name"] == "over-dimensions")]["obtained"]
    heights = np.concatenate([np.asarray(line.get_ydata(), float) for line in figure.axes[5].get_lines()])
    assert all(np.isclose(heights, ratio).any() for ratio in ratios)


def test_the_peer_is_left_out_where_it_saw_fewer_examples():
    cells = made_up(axes=["examples"])
    cells["settings"] = [{**settings, "peer_examples": 50000} for settings in cells["settings"]]
    (panel, _) = em_cost.draw(figure_data(cells), em_cost.Options()).axes
    points = [
        (x, y)
        for line in panel.get_lines()
        for x, y in zip(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
    ]
    for metric, farthest in (("seconds_per_iteration", 500000), ("peer_seconds_per_iteration", 50000)):
        base = SECONDS["float32", metric] / 50000
        assert max(x for x, y in points if np.isclose(y, base * x, rtol=1e-6)) == farthest


def test_two_sizes_are_drawn_without_an_exponent():
    cells = made_up(axes=["components"])
    few = cells[[settings["components"] <= 20 for settings in cells["settings"]]]
    panel, below = em_cost.draw(figure_data(few), em_cost.Options()).axes
    assert not panel.texts
    assert sum(len(line.get_xdata()) == 2 for line in panel.get_lines()) >= 4
    assert below.get_xlabel() == "components [count]"


@pytest.mark.parametrize(
    "cells", [made_up().iloc[:0], made_up(evaluation_name="one").iloc[:1], made_up(obtained=np.nan)]
)
def test_without_two_sizes_it_says_so(cells):
    (axes,) = em_cost.draw(figure_data(cells), em_cost.Options()).axes
    assert "No time" in axes.texts[0].get_text()


def test_equal_figures_give_equal_bytes(tmp_path):
    for folder in ("a", "b"):
        save(em_cost.draw(figure_data(made_up(wobble=0.1)), em_cost.Options()), tmp_path / folder, "f")
    for end in FORMATS:
        assert (tmp_path / "a" / f"f.{end}").read_bytes() == (tmp_path / "b" / f"f.{end}").read_bytes()
