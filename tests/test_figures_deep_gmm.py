"""Figures of layered mixtures: what is drawn is what arrays, cells and histories say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic_results as synthetic
from scipy import stats

from dgmbench.assemble.earlier import MAIN
from dgmbench.assemble.entries import build_entries
from dgmbench.assemble.experiment import labels_of
from dgmbench.assemble.figures import density_plane, layers_components, path_search
from dgmbench.assemble.figures.base import FORMATS, FigureData, save, style
from dgmbench.assemble.figures.collecting import gather
from dgmbench.assemble.outcomes import Archive
from dgmbench.estimators.base import Metric
from dgmbench.runs import make_plan
from dgmbench.schemas import Experiment

LL = "log_likelihood"


@pytest.fixture(autouse=True)
def _style():
    with style():
        yield


def figure_data(cells, **fields) -> FigureData:
    columns = {"variant": "", "kind": "exact", "unit": "nats", "seed_sd": np.nan, "estimator_se": 0.0, "dataset": "d"}
    frame = pd.DataFrame([{**columns, **cell} for cell in cells])
    empty = {"histories": {}, "samples": {}, "shapes": {}, "missing": {}, "labels": {}}
    return FigureData(title="made up", cells=frame, **{**empty, **fields})


def plane_data() -> FigureData:
    """A Gaussian, a mixture and a layered mixture of made-up arrays, and a row whose arrays are elsewhere."""
    extent = np.array([-3.0, 3.0, -2.0, 2.0])
    x, y = np.meshgrid(np.linspace(-2.97, 2.97, 100), np.linspace(-1.98, 1.98, 100))
    g = np.random.default_rng(2)
    data = np.concatenate([g.normal((-1, 0), 0.4, (200, 2)), g.normal((1, 0.3), 0.4, (200, 2))]).astype(np.float32)
    one = stats.norm(0, 1.1).pdf(x) * stats.norm(0, 0.5).pdf(y)
    two = 0.5 * (stats.norm(-1, 0.4).pdf(x) * stats.norm(0, 0.4).pdf(y))
    two += 0.5 * (stats.norm(1, 0.4).pdf(x) * stats.norm(0.3, 0.4).pdf(y))
    trail = np.array([[0.5, -1.0], [1.6, -2.6], [-0.2, -0.9], [0.9, 0.4]])
    arrays = {
        "gaussian": {"density": one, "extent": extent, "data": data, "layers": np.array([1])},
        "gmm": {"density": two, "extent": extent, "data": data, "layers": np.array([6])},
        "deep": {"density": two, "extent": extent, "data": data, "layers": np.array([3, 2, 3])}
        | {"path": np.array([2, 0, 1]), "trail": trail},
    }
    cells = [{"row": row, "row_name": row, "metric": "mass", "dataset": "toys-two-moons"} for row in [*arrays, "away"]]
    labels = {"gaussian": "Gaussian", "gmm": "Gaussian mixture", "deep": "Deep Gaussian mixture, 3, 2 and 3 components"}
    missing = {"density_plane": {"away": "the arrays are not on this machine (dvc pull fetches them)"}}
    return figure_data(cells, labels=labels, arrays={"density_plane": arrays}, missing_arrays=missing)


def fine_plane_data() -> FigureData:
    """Three densities with ragged contours on grids of the default size, 240 x 240."""
    data = plane_data()
    x, y = np.meshgrid(np.linspace(-3, 3, 240), np.linspace(-2, 2, 240))
    g = np.random.default_rng(4)
    for arrays in data.arrays["density_plane"].values():
        places = g.normal(size=(18, 2)) * (1.0, 0.6)
        arrays["density"] = sum(stats.norm(a, 0.15).pdf(x) * stats.norm(b, 0.1).pdf(y) for a, b in places) / 18
    return data


def search_data() -> FigureData:
    g = np.random.default_rng(0)
    cells, full = [], 152.6
    for setting, values in (("passes", range(1, 6)), ("repeats", range(1, 9))):
        for value in values:
            loss = {"passes": 6.0 * np.exp(-1.3 * value) + 1.5, "repeats": 1.6 * np.exp(-0.5 * (value - 1))}[setting]
            where = {"row": "deep", "row_name": "deep", "settings": {setting: value}, "unit": "nats"}
            found = {"metric": path_search.FOUND, "obtained": full - loss, "estimator_se": 0.03}
            cells += [{**where, **found}, {**where, "metric": path_search.FULL, "obtained": full}]
    steps = np.arange(1, 41)
    frames = [
        pd.DataFrame({"step": steps, "switch_rate": np.clip(0.3 * np.exp(-steps / 8) + 0.02 * g.random(40), 0, 1)})
        for _ in range(2)
    ]
    return figure_data(cells, histories={"deep": frames, "gmm": [frames[0][["step"]]]}, labels={"deep": "Deep mixture"})


def depth_data() -> FigureData:
    cells = []
    for dataset, base in (("bsds300", 140.0), ("tiny8x8", 88.0)):
        for layers, name in ((1, "gmm"), (2, "deep-2"), (3, "deep-3")):
            for top in (5, 10, 20, 50, 100):
                parameters = {"components": top if layers == 1 else [top] + [5] * (layers - 1)}
                row = f"{name} dataset={dataset} components={parameters['components']}"
                for split, sign in (("train", 1), ("test", -1)):
                    value = base + 6 * (1 - np.exp(-top / 15)) + 1.5 * layers + sign * top**0.7 / (12 * layers)
                    cell = {"row": row, "row_name": name, "dataset": dataset, "parameters": parameters}
                    cell |= {"metric": LL, "evaluation_name": split, "obtained": value, "seed_sd": 0.4}
                    cells.append(cell)
    return figure_data(cells)


def panel_titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_contours_hold_the_mass_that_they_say():
    grid = np.linspace(-5, 5, 401)
    density = stats.norm.pdf(grid)[:, None] * stats.norm.pdf(grid)[None, :]
    above = density_plane.mass_above(density)
    # In the plane, the mass inside radius r is 1 - exp(-r^2 / 2).
    radius = np.hypot(*np.meshgrid(grid, grid))
    inside = radius < 4
    assert np.abs(above - (1 - np.exp(-(radius**2) / 2)))[inside].max() < 2e-3
    assert above.min() == 0


def test_the_plane_has_a_column_for_each_row_with_its_transformations():
    data = plane_data()
    figure = density_plane.draw(data, density_plane.Options())
    assert [title[0] for title in panel_titles(figure)] == list("abcd")
    diagrams = [axes for axes in figure.axes if axes.get_title(loc="left")]
    circles = [
        sum(len(c.get_offsets()) for c in d.collections if type(c).__name__ == "PathCollection") for d in diagrams
    ]
    # z, the components of each layer and x; the path's five places are drawn a second time, in red.
    assert circles == [3, 8, 10 + 5, 0]
    drawn = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(drawn) == 3
    assert all(axes.get_xlabel() == "first value [no unit]" for axes in drawn)
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in drawn}) == 1, "panels of one dataset are comparable"
    texts = {" ".join(text.get_text().split()) for axes in figure.axes for text in axes.texts}
    assert "the arrays are not on this machine (dvc pull fetches them)" in texts


def test_fine_grids_stay_small_in_a_page_that_holds_them_inline(tmp_path):
    save(density_plane.draw(fine_plane_data(), density_plane.Options()), tmp_path, "f")
    assert (tmp_path / "f.svg").stat().st_size < 200_000


def test_the_trail_is_drawn_from_z_to_x():
    data = plane_data()
    trail = data.arrays["density_plane"]["deep"]["trail"]
    panel = next(axes for axes in density_plane.draw(data, density_plane.Options()).axes if len(axes.patches) == 3)
    marks = [np.asarray(c.get_offsets()) for c in panel.collections if type(c).__name__ == "PathCollection"]
    # The data, z, the points between the layers, and x.
    assert [len(places) for places in marks] == [250, 1, 2, 1]
    assert np.allclose(np.concatenate(marks[1:]), trail)
    assert panel.get_ylim()[0] < trail[:, 1].min(), "the panel is widened to what is drawn on it"
    without = density_plane.draw(data, density_plane.Options(trail=False))
    assert not any(axes.patches for axes in without.axes if axes.get_xlabel())
    assert {axes.get_ylim() for axes in without.axes if axes.get_xlabel()} == {(-2.0, 2.0)}


def test_a_distant_trail_does_not_shrink_the_density_away():
    data = plane_data()
    data.arrays["density_plane"]["deep"]["trail"][1] = [500.0, 500.0]
    figure = density_plane.draw(data, density_plane.Options())
    assert {axes.get_xlim()[1] for axes in figure.axes if axes.get_xlabel()} == {3.0 + density_plane.ROOM * 6.0}


def test_search_panels_show_the_ascent_under_the_full_search():
    data = search_data()
    passes, repeats, switch = path_search.draw(data, path_search.Options()).axes
    found = data.cells[data.cells["metric"] == path_search.FOUND]
    for panel, setting in ((passes, "passes"), (repeats, "repeats")):
        own = found[[setting in settings for settings in found["settings"]]]
        curves = [line for line in panel.lines if len(line.get_xdata()) == len(own)]
        assert np.allclose(curves[0].get_ydata(), own["obtained"])
        assert any(set(line.get_ydata()) == {152.6} for line in panel.lines)
        assert panel.get_xlabel() == f"{setting} [count]"
        assert "[nats]" in panel.get_ylabel()
    assert len(switch.lines) == 2, "one line for each seed; rows without a switch rate have none"
    for line, frame in zip(switch.lines, data.histories["deep"]):
        assert np.allclose(line.get_ydata(), 100 * frame["switch_rate"])
    assert "[%]" in switch.get_ylabel()


def test_search_panels_say_what_is_missing():
    data = search_data()
    data = figure_data(data.cells[data.cells["metric"] == "none"].to_dict("records"), histories=data.histories)
    data.cells[["row", "row_name", "settings", "metric", "obtained"]] = None
    texts = {text.get_text() for axes in path_search.draw(data, path_search.Options()).axes for text in axes.texts}
    assert texts == {"no search over passes yet", "no search over repeats yet"}


def test_rows_can_be_chosen():
    data = search_data()
    other = data.cells.assign(row="other", row_name="other")
    both = FigureData(**{**data.__dict__, "cells": pd.concat([data.cells, other], ignore_index=True)})
    curves = [
        len(path_search.draw(both, options).axes[0].lines)
        for options in (path_search.Options(), path_search.Options(rows=["deep"]))
    ]
    assert curves[0] == 2 * curves[1]


def test_depth_has_a_panel_for_each_dataset_and_a_line_for_each_depth_and_split():
    data = depth_data()
    figure = layers_components.draw(data, layers_components.Options())
    titles = ["a  BSDS300 patches, 8 x 8", "b  CIFAR-10 at 8 x 8, in place of 80\nMillion Tiny Images"]
    assert panel_titles(figure) == titles
    for panel, dataset in zip(figure.axes, ("bsds300", "tiny8x8")):
        own = data.cells[data.cells["dataset"] == dataset]
        lines = [line for line in panel.lines if len(line.get_xdata()) == 5 and line.get_linestyle() != "None"]
        expected = [
            own[(own["row_name"] == name) & (own["evaluation_name"] == split)]["obtained"].to_numpy()
            for split in ("train", "test")
            for name in ("gmm", "deep-2", "deep-3")
        ]
        assert len(lines) == 6
        for line, values in zip(lines, expected):
            assert list(line.get_xdata()) == [5, 10, 20, 50, 100]
            assert np.allclose(line.get_ydata(), values)
        assert len({line.get_marker() for line in lines}) == 3
        assert panel.get_xlabel() == "components in the top layer [count]"
        assert panel.get_ylabel() == "mean log likelihood [nats], exact"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{layers}, {split}" for layers in ("1 layer", "2 layers", "3 layers") for split in ("test", "train")
    ]


def test_splits_far_apart_have_panels_of_their_own():
    data = depth_data()
    far = (data.cells["dataset"] == "tiny8x8") & (data.cells["evaluation_name"] == "test")
    data.cells.loc[far, "obtained"] += 60
    figure = layers_components.draw(data, layers_components.Options())
    titles = [" ".join(title.split()) for title in panel_titles(figure)]
    assert titles[0] == "a BSDS300 patches, 8 x 8"
    assert [title.rsplit(", ", 1)[1] for title in titles[1:]] == ["test split", "train split"]
    tiny = data.cells[data.cells["dataset"] == "tiny8x8"]
    for panel, split in zip(figure.axes[1:], ("test", "train")):
        drawn = np.concatenate([line.get_ydata() for line in panel.lines if line.get_linestyle() != "None"])
        assert np.allclose(np.sort(drawn), np.sort(tiny[tiny["evaluation_name"] == split]["obtained"]))


def test_a_single_gaussian_far_below_is_a_note():
    data = depth_data()
    own = data.cells[data.cells["dataset"] != "tiny8x8"].copy()
    single = own.iloc[:1].assign(parameters=[{"components": 1}], obtained=own["obtained"].min() - 80.0)
    figure = layers_components.draw(replace(data, cells=pd.concat([own, single])), layers_components.Options())
    (panel,) = figure.axes
    assert panel.get_ylim()[0] > single["obtained"].item() + 40
    assert panel.get_xlim()[0] > 1
    (note,) = panel.texts
    assert f"1 component: {single['obtained'].item():.1f}" in note.get_text()


def test_one_seed_has_no_error_bars():
    data = depth_data()
    data.cells["seed_sd"] = np.nan
    figure = layers_components.draw(data, layers_components.Options())
    assert not figure.axes[0].collections
    assert all(line.get_visible() for line in figure.axes[0].get_ygridlines())
    assert not figure.legends[0].get_title().get_text()


@pytest.mark.parametrize("module", [density_plane, path_search, layers_components])
def test_a_figure_without_numbers_says_so(module):
    full = depth_data()
    empty = FigureData(**{**full.__dict__, "cells": full.cells.assign(settings=None).iloc[:0]})
    (axes,) = module.draw(empty, module.Options()).axes
    assert axes.texts[0].get_text()


@pytest.mark.parametrize(
    ("module", "data"), [(density_plane, plane_data), (path_search, search_data), (layers_components, depth_data)]
)
def test_equal_figures_give_equal_bytes(module, data, tmp_path):
    for folder in ("a", "b"):
        save(module.draw(data(), module.Options()), tmp_path / folder, "f")
    for end in FORMATS:
        assert (tmp_path / "a" / f"f.{end}").read_bytes() == (tmp_path / "b" / f"f.{end}").read_bytes()


def test_arrays_beside_numbers_are_gathered_and_missing_ones_named(tmp_path, monkeypatch):
    mass = {"mass": Metric("probability", "score", "neither", "mass")}
    monkeypatch.setitem(synthetic.METRICS, "density_plane", mass)
    synthetic.stand_ins(monkeypatch)
    plan_of = {name: {"model": name, "evaluate": ["plane"]} for name in ("near", "away", "bare", "untrained")}
    experiment = Experiment(
        title="t", document="d", source="s", question="q", rows=plan_of,
        evaluations={"plane": {"estimator": "density_plane"}}, figure={"name": "density_plane"},
        budgets={synthetic.BUDGET: {"datasets": [{"name": "unused"}], "seeds": 2}},
    )  # fmt: skip
    plan = make_plan(synthetic.params(), {"plane": experiment})
    results = tmp_path / "results"
    density = np.arange(12.0).reshape(3, 4)
    for evaluation in plan.evaluations.values():
        run = plan.runs[evaluation.run]
        if run.model == "untrained":
            continue
        synthetic.write_run(results, run)
        arrays = None if run.model == "bare" else {"density": density + run.seed}
        synthetic.write_evaluation(results, evaluation, [synthetic.number("mass", 0.99)], arrays=arrays)
        if run.model == "away":
            (tmp_path / f"data/runs/{synthetic.BUDGET}/{evaluation.run}/{evaluation.id}.npz").unlink()
    archive = Archive(results / synthetic.BUDGET, tmp_path / "data")
    entries = build_entries(plan, "plane", experiment, archive, results / "published")
    data = gather(entries, plan, archive, "t", labels_of(entries), "density_plane")
    assert data.arrays.keys() == {"density_plane"}
    assert data.arrays["density_plane"].keys() == {"near"}
    np.testing.assert_array_equal(data.arrays["density_plane"]["near"]["density"], density)
    missing = data.missing_arrays["density_plane"]
    assert missing["away"] == "the arrays are not on this machine (dvc pull fetches them)"
    assert missing["bare"] == "the estimator wrote no arrays"
    assert missing["untrained"].startswith("pending: ")
    assert not data.samples
    assert {source.row: source.here for source in data.sources[MAIN].values()} == {"away": False, "near": True}
    assert all(source.checksum for source in data.sources[MAIN].values())
    data = gather(entries, plan, archive, "t", labels_of(entries), "likelihood_bars")
    assert (data.arrays, data.missing_arrays, data.sources[MAIN]) == ({}, {}, {})
