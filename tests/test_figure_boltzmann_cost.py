"""The cost figure of Boltzmann machines: what is drawn is what the cells say, axes carry units, equal bytes."""

import numpy as np
import pandas as pd
import pytest

from dgmbench.assemble.figures import boltzmann_cost
from dgmbench.assemble.figures.base import FORMATS, FigureData, save, style

VALUES = {
    "peer_seconds_per_epoch": 9.0,
    "seconds_per_epoch": 2.0,
    "seconds_per_sweep": 0.002,
    "seconds_per_temperature": 0.03,
    "seconds_of_enumeration": 6.0,
    "epoch_rate_share": 0.6,
    "gibbs_rate_share": 0.5,
    "ais_rate_share": 0.4,
    "speed_ratio": 4.5,
}


def made_up(columns=("cost",), **changes):
    return pd.DataFrame(
        [
            {
                "label": "RBM",
                "column": column,
                "estimator": "boltzmann_cost",
                "metric": metric,
                "obtained": value * (1 + place),
                "estimator_se": 0.1 * value,
                **changes,
            }
            for place, column in enumerate(columns)
            for metric, value in VALUES.items()
        ]
    )


def figure_data(cells):
    return FigureData("cost", cells, {}, {}, {}, {}, {})


@pytest.fixture(autouse=True)
def _style():
    with style():
        yield


def test_dots_are_the_cells_and_stand_beside_their_names():
    seconds, shares = boltzmann_cost.draw(figure_data(made_up()), boltzmann_cost.Options()).axes
    for panel, names in ((seconds, boltzmann_cost.SECONDS), (shares, boltzmann_cost.SHARES)):
        labels = {tick.get_text(): height for tick, height in zip(panel.get_yticklabels(), panel.get_yticks())}
        line = next(line for line in panel.get_lines() if len(line.get_xdata()) == len(names))
        drawn = dict(zip(np.asarray(line.get_ydata(), float), np.asarray(line.get_xdata(), float)))
        for metric, name in names.items():
            assert drawn[labels[name]] == VALUES[metric]
    assert seconds.get_xscale() == "log"
    assert seconds.get_xlabel().endswith("[seconds]")
    assert shares.get_xlabel().endswith("[ratio]")


def test_several_columns_are_told_apart():
    assert not boltzmann_cost.draw(figure_data(made_up()), boltzmann_cost.Options()).legends
    (legend,) = boltzmann_cost.draw(figure_data(made_up(("a", "b"))), boltzmann_cost.Options()).legends
    assert [text.get_text() for text in legend.get_texts()] == ["RBM, a", "RBM, b"]


@pytest.mark.parametrize("cells", [made_up().iloc[:0], made_up(obtained=np.nan), made_up(estimator="em_cost")])
def test_without_times_it_says_so(cells):
    (axes,) = boltzmann_cost.draw(figure_data(cells), boltzmann_cost.Options()).axes
    assert "No time" in axes.texts[0].get_text()


def test_equal_figures_give_equal_bytes(tmp_path):
    for folder in ("a", "b"):
        save(boltzmann_cost.draw(figure_data(made_up()), boltzmann_cost.Options()), tmp_path / folder, "f")
    for end in FORMATS:
        assert (tmp_path / "a" / f"f.{end}").read_bytes() == (tmp_path / "b" / f"f.{end}").read_bytes()
