"""Figures: what is drawn is what the cells say, axes carry units, and equal figures give equal bytes."""

import base64
import io
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import synthetic_results as synthetic
from matplotlib.text import Text
from PIL import Image

from dgmbench.assemble.earlier import Earlier
from dgmbench.assemble.entries import build_entries
from dgmbench.assemble.experiment import labels_of
from dgmbench.assemble.figures import estimators_against_truth, likelihood_bars, patch_likelihood, samples, training
from dgmbench.assemble.figures.base import FORMATS, Source, new_figure, nothing_to_show, save, style
from dgmbench.assemble.figures.collecting import draw_all, gather
from dgmbench.assemble.figures.registry import figure, figure_modules
from dgmbench.assemble.outcomes import Archive
from dgmbench.errors import UserError
from dgmbench.estimators.registry import estimator_modules
from dgmbench.runs import make_plan
from dgmbench.schemas import FigurePlan


@pytest.fixture(scope="module")
def figure_data(tmp_path_factory):
    """Experiment -> FigureData of the made-up results."""
    results = tmp_path_factory.mktemp("project") / "results"
    with pytest.MonkeyPatch.context() as monkeypatch:
        synthetic.stand_ins(monkeypatch)
        experiments = synthetic.experiments()
        plan = make_plan(synthetic.params(), experiments)
        synthetic.write_everything(results, plan)
        archive = Archive(results / "demo", results.parent / "data")
        found = {}
        for name, experiment in experiments.items():
            entries = build_entries(plan, name, experiment, archive, results / "published")
            found[name] = gather(entries, plan, archive, experiment.title, labels_of(entries), experiment.figure.name)
        return found


@pytest.fixture(autouse=True)
def _style():
    with style():
        yield


def labelled(axes):
    return [axis.get_xlabel() for axis in axes] + [axis.get_ylabel() for axis in axes]


def test_ais_panel_is_drawn_relative_to_the_exact_value(figure_data):
    data = figure_data["estimators-check"]
    panel = estimators_against_truth.draw(data, estimators_against_truth.Options()).axes[0]
    cells = data.cells.set_index(["row", "column"])
    exact = cells.loc[("rbm", "exact"), "obtained"]
    expected = [cells.loc[("rbm", f"ais temperatures={t} chains=100"), "obtained"] - exact for t in (100, 1000, 10000)]
    drawn = [line.get_ydata() for line in panel.get_lines() if line.get_linestyle() != "None"]
    assert any(len(ys) == 3 and np.allclose(ys, expected) for ys in drawn)
    assert {text.get_text() for text in panel.get_legend().get_texts()} == {
        "exact",
        "10 chains",
        "100 chains",
        "1000 chains",
    }


def test_estimator_panels_carry_units_and_keep_parzen_apart(figure_data):
    figure = estimators_against_truth.draw(figure_data["estimators-check"], estimators_against_truth.Options())
    ais, bound, parzen = figure.axes
    assert all("[" in label for label in labelled((ais, bound)))
    assert "[nats], parzen" in parzen.get_xlabel()
    assert not ais.get_shared_y_axes().joined(ais, bound)
    names = {tick.get_text().replace("\n", " ") for tick in parzen.get_yticklabels()}
    assert names == {"Independent pixels", "RBM, 8 hidden", "VAE", "Training set"}


def test_patch_figure_has_a_line_for_each_split_and_the_published_values(figure_data):
    data = figure_data["patches-check"]
    figure = patch_likelihood.draw(data, patch_likelihood.Options())
    (panel,) = figure.axes
    labels = {line.get_label(): line for line in panel.get_lines()}
    for split in ("train", "validation", "test"):
        line = labels[f"{split} split"]
        assert list(line.get_xdata()) == [1, 4, 16, 64]
        cells = data.cells[(data.cells["column"] == split) & (data.cells["row_name"] == "gmm")]
        assert np.allclose(line.get_ydata(), cells["obtained"])
    styles = {(labels[f"{s} split"].get_marker(), labels[f"{s} split"].get_linestyle()) for s in ("train", "test")}
    assert len(styles) == 2
    assert {"Gaussian", "Independent Gaussians (control)"} <= labels.keys()
    assert {text.get_text() for text in panel.texts} == {
        "published 156.2: Deep GMM",
        "published 153.7: GMM",
    }
    assert "[nats], exact" in panel.get_ylabel()
    assert "[count]" in panel.get_xlabel()


def test_bars_have_one_panel_for_each_kind(figure_data):
    figure = likelihood_bars.draw(figure_data["estimators-check"], likelihood_bars.Options())
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["exact", "estimate", "lower-bound"]
    assert all("[nats]" in axes.get_xlabel() for axes in figure.axes)


def test_bars_come_closer_to_the_largest_numbers(figure_data):
    data = figure_data["estimators-check"]
    own = data.cells[data.cells["metric"] == "log_likelihood"].iloc[:1]
    values = zip((-90.0, -85.0, -170.0), (-86.0, -84.0, -165.0), ("read", "read; unverified", None))
    cells = [
        own.assign(obtained=o, published=p, published_protocol=how, row=str(o), control=False) for o, p, how in values
    ]
    options = likelihood_bars.Options(closer=8.0)
    figure = likelihood_bars.draw(replace(data, cells=pd.concat(cells, ignore_index=True)), options)
    whole, closer = figure.axes
    low, high = closer.get_xlim()
    assert low == pytest.approx(-84 - 8)
    assert -84 < high < -83
    assert whole.get_xlim()[0] < -170
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["obtained", "published", "published, unverified"]


def test_bars_show_published_bounds_beside_likelihoods(figure_data):
    data = figure_data["estimators-check"]
    own = data.cells[data.cells["metric"] == "log_likelihood"].iloc[:1]
    bounds = pd.concat([own.assign(metric="bound", published=p, row=f"b{i}") for i, p in enumerate((-84.62, np.nan))])
    cells = pd.concat([own, bounds], ignore_index=True)
    (axes,) = likelihood_bars.draw(replace(data, cells=cells), likelihood_bars.Options()).axes
    assert [tick.get_text().split(" · ")[-1] == "bound" for tick in axes.get_yticklabels()] == [False, True]
    assert axes.get_xlabel().startswith("log likelihood or bound on it [nats]")
    (axes,) = likelihood_bars.draw(replace(data, cells=cells), likelihood_bars.Options(metric="bound")).axes
    assert len(axes.get_yticks()) == 2


def test_training_curves_leave_out_closed_forms(figure_data):
    figure = training.draw(figure_data["estimators-check"], training.Options())
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert sorted(set(titles)) == ["rbm", "vae"]
    drawn = [axes for axes in figure.axes if axes.lines]
    assert all("[" in label for label in labelled(drawn))
    assert "objective [nats]" in {axes.get_ylabel() for axes in drawn}
    assert not any(axes.get_legend() for axes in figure.axes)
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"RBM, 8 hidden", "VAE"}
    styles = {(line.get_color(), line.get_linestyle()) for axes in drawn for line in axes.lines}
    assert len(styles) == 2


def test_dropped_pixel_of_a_patch_is_minus_the_sum_of_the_others():
    patches = np.random.default_rng(0).standard_normal((5, 64))
    patches -= patches.mean(1, keepdims=True)
    pictures, contrast = samples.as_pictures(patches[:, :63], (63,))
    assert contrast
    assert np.allclose(pictures, patches.reshape(5, 8, 8))


def test_mosaic_places_pictures_in_reading_order_with_gaps():
    pictures = np.arange(4)[:, None, None] / 10 * np.ones((4, 3, 3))
    canvas = samples.mosaic(pictures, 2, contrast=False)
    assert canvas.shape == (7, 7)
    assert [canvas[0, 0], canvas[0, 4], canvas[4, 0], canvas[4, 4]] == [0, 0.1, 0.2, 0.3]
    assert (canvas[3] == 1).all()
    stretched = samples.mosaic(np.arange(9.0).reshape(1, 3, 3), 1, contrast=True)
    assert (stretched.min(), stretched.max()) == (0, 1)


def test_samples_of_two_values_are_points_and_vectors_are_no_pictures(figure_data):
    assert samples.as_pictures(np.zeros((3, 5)), (5,)) == (None, False)
    points = np.random.default_rng(1).standard_normal((50, 2))
    data = figure_data["estimators-check"]
    flat = type(data)(**{**data.__dict__, "samples": {"toy": points}, "shapes": {"toy": (2,)}})
    (axes,) = samples.draw(flat, samples.Options()).axes
    assert np.allclose(axes.collections[0].get_offsets(), points)


def test_missing_samples_are_named(figure_data):
    data = figure_data["estimators-check"]
    assert set(data.samples) == {"independent", "rbm", "vae"}
    away = "the samples are not on this machine"
    some = {"rbm": data.samples["rbm"]}
    for found in ({}, some):
        gone = type(data)(**{**data.__dict__, "samples": found, "missing": {"vae": away}})
        drawn = samples.draw(gone, samples.Options())
        texts = [" ".join(text.get_text().split()) for text in drawn.findobj(Text)]
        assert any(away in text for text in texts)
        assert len(drawn.axes) == 1, "what has no samples has no panel"


def test_recorded_quantities_carry_their_units():
    labels = {
        "validation_bound": "nats",
        "pseudo_log_likelihood": "nats",
        "loss_bits": "bits",
        "empty_components": "count",
    }
    for quantity, unit in labels.items():
        assert training.axis_label(quantity).endswith(f"[{unit}]")


@pytest.mark.parametrize("module", [estimators_against_truth, patch_likelihood, likelihood_bars, samples, training])
def test_a_figure_without_numbers_says_so(figure_data, module):
    data = figure_data["estimators-check"]
    empty = type(data)(data.title, data.cells.iloc[:0], {}, {}, {}, {}, {})
    (axes,) = module.draw(empty, module.Options()).axes
    assert axes.texts[0].get_text()


@pytest.mark.parametrize(
    ("experiment", "name"),
    [
        ("estimators-check", "estimators_against_truth"),
        ("patches-check", "patch_likelihood"),
        ("estimators-check", "likelihood_bars"),
    ],
)
def test_three_figures_in_two_formats(figure_data, tmp_path, experiment, name):
    written, drawn_from = draw_all(figure_data[experiment], FigurePlan(name=name), tmp_path, experiment)
    assert {suffix: picture["kept"] for suffix, picture in drawn_from.items()} == {"": "", "-samples": ""}
    expected = [f"{experiment}{part}.{end}" for part in ("", "-samples", "-training") for end in FORMATS]
    assert [path.name for path in written] == expected
    for path in written:
        content = path.read_bytes()
        if path.suffix == ".svg":
            root = ElementTree.fromstring(content)
            assert root.get("width").endswith("pt")
            assert len(list(root.iter())) > 50
        else:
            assert content.startswith(b"%PDF")
            assert len(content) > 4000


def test_a_picture_stands_where_what_it_is_drawn_from_is_gone(figure_data, tmp_path):
    data, plan = figure_data["patches-check"], FigurePlan(name="patch_likelihood")
    rows = list(data.samples)
    ids = {row: f"{place:012x}" for place, row in enumerate(rows)}

    def drawn(here, earlier, folder=tmp_path, checksum="1"):
        samples = {row: data.samples[row] for row in here}
        missing = {row: "not on this machine" for row in rows if row not in here}
        sources = {ids[row]: Source(row, checksum, row in here) for row in rows}
        given = replace(data, samples=samples, missing=missing, sources={"": {}, "-samples": sources})
        paths, pictures = draw_all(given, plan, folder, "e", earlier)
        return {path.name: path.read_bytes() for path in paths}, pictures["-samples"]

    before, told = drawn(rows, Earlier())
    assert told == {"drawn_from": {ids[row]: "1" for row in rows}, "kept": ""}
    first, last = rows[0], rows[-1]
    label = {row: data.labels[row] for row in rows}
    known = {ids[row]: "1" for row in rows if row != last}
    after, kept = drawn(rows[1:], Earlier(pictures={"-samples": known}))
    assert all(after[name] == before[name] for name in before if "-samples" in name)
    assert kept["drawn_from"] == known
    assert f"1 of the {len(rows)} files that it is drawn from was not on the machine" in kept["kept"]
    assert kept["kept"].endswith(f"; computed since, and not in it: {label[last]}.")
    # Made again, on another machine or with other code; and a part that nothing asks for any more.
    others = known | {"f" * 12: "1"}
    kept = drawn([last], Earlier(pictures={"-samples": others}), checksum="2")[1]["kept"]
    assert f"; computed again since: {label[first]}" in kept
    assert kept.endswith("; no longer asked for, and in it: 1 of its parts.")
    # Drawn anew where nothing stands, and where what stands shows nothing that is gone.
    for place, earlier in enumerate((Earlier(), Earlier(pictures={"-samples": {ids[last]: "1"}}))):
        found, told = drawn(rows[1:], earlier, tmp_path / str(place))
        assert told == {"drawn_from": {ids[row]: "1" for row in rows[1:]}, "kept": ""}
        assert found["e-samples.svg"] != before["e-samples.svg"]


def test_equal_figures_give_equal_bytes(figure_data, tmp_path):
    with style():
        for folder in ("a", "b"):
            figure = patch_likelihood.draw(figure_data["patches-check"], patch_likelihood.Options())
            save(figure, tmp_path / folder, "f")
    for end in FORMATS:
        assert (tmp_path / "a" / f"f.{end}").read_bytes() == (tmp_path / "b" / f"f.{end}").read_bytes()


def test_unknown_figure_names_the_nearest(figure_data, tmp_path):
    with pytest.raises(UserError, match="did you mean 'patch_likelihood'"):
        draw_all(figure_data["patches-check"], FigurePlan(name="patch_likelyhood"), tmp_path, "e")
    assert "base" not in figure_modules()


def test_figures_declare_their_options_and_load_no_drawing_library_before_they_draw():
    for name in figure_modules():
        options = figure(name).Options.model_fields
        assert all(field.description for field in options.values()), name
    command = (
        "import sys; from dgmbench.assemble.figures.registry import figure, figure_modules; "
        "[figure(name) for name in figure_modules()]; sys.exit('matplotlib' in sys.modules or 'seaborn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0


def test_figures_say_whose_arrays_they_draw():
    for name in figure_modules():
        module = figure(name)
        draws = "data.arrays" in Path(module.__file__).read_text()
        assert module.Options.arrays_of == ((module.ESTIMATOR,) if draws else ()), name
        assert set(module.Options.arrays_of) <= estimator_modules().keys()


def test_style_does_not_leak():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with style():
        nothing_to_show("nothing")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("sentences", [1, 40])
def test_a_reason_of_any_length_has_room(sentences):
    reason = "No samples are here yet.\n" + "The run 0123456789ab of this row is not trained yet. " * sentences
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib warns where a layout has no room
        figure = nothing_to_show(reason)
        figure.draw_without_rendering()
    (text,) = figure.axes[0].texts
    assert text.get_text().startswith("No samples are here yet.\nThe run 0123456789ab")
    box = text.get_window_extent()
    assert box.height < figure.bbox.height
    assert box.width < figure.bbox.width


@pytest.mark.parametrize(("cmap", "hole", "mode"), [("gray", 0, "L"), ("viridis", 0, "P"), ("gray", 3, "RGBA")])
def test_pictures_within_an_svg_file_have_few_colours(tmp_path, cmap, hole, mode):
    drawn, axes = new_figure()
    levels = np.arange(64).reshape(8, 8) / 63
    levels[:hole, :hole] = np.nan
    axes[0, 0].imshow(levels, cmap=cmap, vmin=0, vmax=1, interpolation="none")
    svg, *_ = save(drawn, tmp_path, "levels")
    (embedded,) = re.findall(rb"base64,([A-Za-z0-9+/=\s]+)\"", svg.read_bytes())
    picture = Image.open(io.BytesIO(base64.b64decode(embedded)))
    assert picture.mode == mode
    if mode == "L":  # nothing is lost
        assert sorted({value for _, value in picture.getcolors()}) == sorted({int(v) for v in levels.ravel() * 255.999})
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
