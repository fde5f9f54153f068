"""Curves over a hyper-parameter: a line for each row and other value, published levels, refusals in words."""

import numpy as np
import pandas as pd
import pytest

from dgmbench.assemble.figures import discrete_vae_cost, hyper_parameter_curves, likelihood_bars
from dgmbench.assemble.figures.base import FigureData


def data(cells: list[dict]) -> FigureData:
    common = {"unit": "nats", "kind": "estimate", "metric": "log_likelihood", "column": "bound", "label": "DVAE#"}
    common |= {"evaluation_name": "bound", "estimator": "e", "published": np.nan, "row": "r"}
    common |= {"seed_sd": np.nan, "test_se": 0.5, "estimator_se": 0.1, "converged": True, "differs": None}
    common |= {"verdict": "not published"}
    frame = pd.DataFrame([common | cell for cell in cells])
    return FigureData("t", frame, {}, {}, {}, {}, {})


def test_a_line_for_each_other_value_in_the_order_of_x_with_its_published_level():
    cells = [
        {"parameters": {"samples_k": k, "iterations": n}, "obtained": -100.0 + k + n / 1000, "published": -92.0 - k / 2}
        for k in (1, 5)
        for n in (3000, 1000)
    ]
    (axes,) = hyper_parameter_curves.draw(data(cells), hyper_parameter_curves.Options(x="iterations")).axes
    lines = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}
    assert lines == {
        "DVAE#, samples_k=1": [[1000, -98], [3000, -96]],
        "DVAE#, samples_k=5": [[1000, -94], [3000, -92]],
    }
    levels = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert levels == [-92.5, -94.5]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1,000", "3,000"]
    assert axes.get_ylabel() == "log likelihood [nats], estimate"
    assert [text.get_text() for text in axes.texts] == ["published -92.5", "published -94.5"]


def test_published_numbers_far_off_are_written_not_drawn():
    cells = [{"parameters": {"n": n}, "obtained": -20.0 + n, "published": -89.35} for n in (1, 2)]
    (axes,) = hyper_parameter_curves.draw(data(cells), hyper_parameter_curves.Options(x="n")).axes
    assert axes.get_ylim()[0] > -25
    assert [text.get_text() for text in axes.texts] == ["published, beyond this panel: -89.35"]


def test_numbers_that_have_not_converged_are_hollow_and_other_protocols_are_named():
    cells = [
        {"parameters": {"n": 1}, "obtained": -2.0, "published": -1.5, "differs": "shorter"},
        {"parameters": {"n": 2}, "obtained": -1.0, "published": -1.5, "differs": "shorter", "converged": False},
        {"parameters": {"n": 2}, "obtained": -1.2, "published": -9.0, "label": "other", "verdict": "protocol differs"},
    ]
    drawn = hyper_parameter_curves.draw(data(cells), hyper_parameter_curves.Options(x="n"))
    (axes,) = drawn.axes
    white = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xydata().tolist() for line in white] == [[[2, -1]]]
    assert [text.get_text() for text in axes.texts] == [
        "published -1.5, protocol differs",
        "published, beyond this panel: -9, protocol differs",
    ]
    assert "hollow: not converged" in drawn.legends[0].get_title().get_text()
    (legend,) = hyper_parameter_curves.draw(data(cells[:1]), hyper_parameter_curves.Options(x="n")).legends
    assert "hollow" not in legend.get_title().get_text()


def test_bars_show_what_has_not_converged_and_other_protocols_before_ours_is_there():
    cells = [
        {"obtained": -2.0, "control": False},
        {"obtained": -1.0, "control": False, "converged": False},
        {"obtained": np.nan, "control": False, "published": -1.5, "differs": "shorter", "verdict": "pending"},
    ]
    cells = [{"published_spread": np.nan, "published_protocol": "", "row": str(i)} | c for i, c in enumerate(cells)]
    drawn = likelihood_bars.draw(data(cells), likelihood_bars.Options())
    faces = {container.lines[0].get_xdata()[0]: container.lines[0] for container in drawn.axes[0].containers}
    assert faces[-1.0].get_markerfacecolor() == "white" != faces[-2.0].get_markerfacecolor()
    assert faces[-1.5].get_marker() == "x"
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [
        "obtained",
        "obtained, not converged",
        "published, protocol differs",
    ]


def test_kinds_have_panels_of_their_own():
    cells = [{"parameters": {"n": 1}, "obtained": 1.0}, {"parameters": {"n": 1}, "obtained": 1.0, "kind": "exact"}]
    axes = hyper_parameter_curves.draw(data(cells), hyper_parameter_curves.Options(x="n", scale="linear")).axes
    assert [panel.get_ylabel()[-8:] for panel in axes] == ["estimate", "], exact"]
    assert axes[0].get_xscale() == "linear"


def test_the_legend_names_the_lines_of_every_panel():
    cells = [
        {"parameters": {"n": 1}, "obtained": 1.0, "label": "one"},
        {"parameters": {"n": 1}, "obtained": 1.0, "label": "other", "kind": "exact"},
    ]
    (legend,) = hyper_parameter_curves.draw(data(cells), hyper_parameter_curves.Options(x="n")).legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "other"]


def test_what_is_missing_is_said():
    cells = [{"parameters": {"n": 1}, "obtained": np.nan}]
    (axes,) = hyper_parameter_curves.draw(data(cells), hyper_parameter_curves.Options(x="n")).axes
    assert "No row with a grid over 'n'" in axes.texts[0].get_text()
    (axes,) = discrete_vae_cost.draw(data(cells), discrete_vae_cost.Options()).axes
    assert "No time of a discrete" in axes.texts[0].get_text()


def test_a_step_is_a_bar_of_which_the_sampler_is_a_part():
    numbers = {
        "milliseconds_per_step": 50.0,
        "sampler_share": 0.8,
        "step_rate_share": 0.5,
        "evaluation_rate_share": 0.6,
    }
    cells = [
        {"metric": m, "obtained": value, "estimator": "discrete_vae_cost", "parameters": {}, "row": row}
        for row, factor in (("a", 1.0), ("b", 0.5))
        for m, value in {**numbers, "milliseconds_per_step": 50.0 * factor}.items()
    ]
    times, shares = discrete_vae_cost.draw(data(cells), discrete_vae_cost.Options()).axes
    widths = [bar.get_width() for bar in times.patches]
    assert widths == pytest.approx([50, 25, 40, 20])
    assert [text.get_text() for text in times.get_yticklabels()] == ["a", "b"]
    assert [c.lines[0].get_xdata().tolist() for c in shares.containers] == [[0.5, 0.5], [0.6, 0.6]]


def test_seeds_together_have_a_panel_where_they_were_timed():
    cells = [
        {"metric": metric, "obtained": value, "estimator": estimator, "parameters": {}, "row": row}
        for row, metric, value, estimator in (
            ("a", "milliseconds_per_step", 50.0, "discrete_vae_cost"),
            ("b", "milliseconds_per_step", 40.0, "discrete_vae_cost"),
            ("b", "together_speedup", 1.8, "seeds_together_cost"),
            ("b", "seconds_apart", 9.0, "seeds_together_cost"),
        )
    ]
    *_, together = discrete_vae_cost.draw(data(cells), discrete_vae_cost.Options()).axes
    (points,) = together.containers
    assert points.lines[0].get_xdata().tolist() == [1.8]
    assert points.lines[0].get_ydata().tolist() == [0]
