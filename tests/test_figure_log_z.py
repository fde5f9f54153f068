"""The log Z figure: what is drawn is what the cells say, against the transitions that they took."""

import numpy as np
import pandas as pd
import pytest

from dgmbench.assemble.figures import log_z
from dgmbench.assemble.figures.base import FORMATS, FigureData, save, style

TEMPERATURES = (10, 100, 1000)
SIGNS = {"ais": -1, "reverse_ais": 1, "bracket": 0.1, "population_annealing": -0.5}
LABELS = {"weak": "weak couplings", "trained": "trained", "strong": "strong couplings"}


def made_up(machines=tuple(LABELS), chains=(20,), in_grid=False, **changes):
    rows = []
    for place, machine in enumerate(machines):
        for count in chains:
            for temperatures in TEMPERATURES:
                variance = 3.0**place / (count * temperatures)
                settings = {"temperatures": temperatures} | ({"chains": count} if in_grid else {})
                for method, sign in SIGNS.items():
                    quantities = {"bias": sign * variance, "rmse": variance**0.5, "coverage": 0.95 - 0.1 * variance}
                    for quantity, value in quantities.items():
                        cell = {"row": machine, "row_name": machine, "metric": f"{method}_{quantity}"}
                        rows.append(cell | {"obtained": value, "estimator_se": 0.1 * abs(value), "settings": settings})
        rows.append({"row": machine, "row_name": machine, "metric": "log_z", "obtained": 60.0, "settings": {}})
    return pd.DataFrame(rows).assign(**changes)


def figure_data(cells):
    return FigureData("log Z", cells, {}, {}, {}, {}, LABELS)


def lines(panel, x):
    """The heights of every curve that stands at these numbers of transitions."""
    drawn = [(np.asarray(c.get_xdata(), float), np.asarray(c.get_ydata(), float)) for c in panel.get_lines()]
    return [ys for xs, ys in drawn if len(xs) == len(x) and np.allclose(xs, x)]


@pytest.fixture(autouse=True)
def _style():
    with style():
        yield


def test_a_column_for_each_machine_with_units_and_shared_scales():
    figure = log_z.draw(figure_data(made_up()), log_z.Options())
    panels = np.array(figure.axes).reshape(3, 3)
    assert [p.get_title(loc="left") for p in panels[0]] == ["a  weak couplings", "b  trained", "c  strong couplings"]
    assert all("[nats]" in p.get_ylabel() for p in panels[:2, 0])
    assert "[%]" in panels[2, 0].get_ylabel()
    assert all(p.get_xlabel() == "transitions [count]" and p.get_xscale() == "log" for p in panels[2])
    assert [p.get_yscale() for p in panels[:, 0]] == ["symlog", "log", "linear"]
    assert all(len({p.get_ylim() for p in line}) == 1 for line in panels)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*log_z.NAMES.values(), "exact"]


def test_points_are_the_cells_and_the_bracket_has_twice_the_work():
    figure = log_z.draw(figure_data(made_up()), log_z.Options())
    panels = np.array(figure.axes).reshape(3, 3)
    once, twice = 20 * np.array(TEMPERATURES), 40 * np.array(TEMPERATURES)
    for place in range(3):
        variance = 3.0**place / once
        bias, rmse, coverage = panels[:, place]
        for sign in (-1, 1, -0.5):
            assert any(np.allclose(ys, sign * variance) for ys in lines(bias, once))
        assert any(np.allclose(ys, 0.1 * variance) for ys in lines(bias, twice))
        assert sum(np.allclose(ys, variance**0.5) for ys in lines(rmse, once)) == 3
        assert any(np.allclose(ys, 95 - 10 * variance) for ys in lines(coverage, twice))


def test_chains_and_transitions_outside_the_grid_are_told_by_options():
    figure = log_z.draw(figure_data(made_up(machines=["weak"])), log_z.Options(chains=50, transitions=3))
    assert lines(figure.axes[1], 150 * np.array(TEMPERATURES))


def test_numbers_of_chains_in_the_grid_are_told_apart():
    figure = log_z.draw(figure_data(made_up(machines=["weak"], chains=(20, 100), in_grid=True)), log_z.Options())
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][-2:] == ["20 chains", "100 chains"]
    for count, face in ((20, log_z.series_style(0)["color"]), (100, "white")):
        variance = 1 / (count * np.array(TEMPERATURES))
        markers = [
            line.get_markerfacecolor()
            for line in figure.axes[1].get_lines()
            if len(line.get_xdata()) == 3
            and np.allclose(line.get_ydata(), variance**0.5)
            and np.allclose(line.get_xdata(), count * np.array(TEMPERATURES))
        ]
        assert face in markers


@pytest.mark.parametrize(
    "cells", [made_up().iloc[:0], made_up()[made_up()["metric"] == "log_z"], made_up(obtained=np.nan)]
)
def test_without_repetitions_it_says_so(cells):
    (axes,) = log_z.draw(figure_data(cells), log_z.Options()).axes
    assert "No repetition" in axes.texts[0].get_text()


def test_it_is_written_and_equal_cells_give_equal_bytes(tmp_path):
    figures = {name: log_z.draw(figure_data(made_up()), log_z.Options()) for name in ("one", "two")}
    written = [save(figure, tmp_path / name, "log-z") for name, figure in figures.items()]
    for first, second, extension in zip(*written, FORMATS, strict=True):
        assert first.suffix == f".{extension}"
        assert first.read_bytes() == second.read_bytes()
