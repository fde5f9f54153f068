"""Figures of smoothings and relaxed priors: what is drawn is what arrays and cells say, and what is missing is said."""

import numpy as np
import pandas as pd
import pytest

from dgmbench.assemble.figures import relaxed_priors, smoothings
from dgmbench.assemble.figures.base import FORMATS, FigureData, save, style


@pytest.fixture(autouse=True)
def _style():
    with style():
        yield


def curves(*betas: float) -> dict[str, np.ndarray]:
    rho, sharp = np.linspace(0.05, 0.95, 10), np.array(betas)
    return {
        "q": np.array([0.5]),
        "betas": sharp,
        "rho": rho,
        "zeta": 1 / (1 + np.exp(-sharp[:, None] * (rho - 0.5))),
        "gradient": np.exp(-sharp[:, None] * (rho - 0.5) ** 2),
        "gradient_variance": sharp**2,
        "distance": 1 / sharp,
    }


def smoothing_data(arrays: dict, missing: dict | None = None) -> FigureData:
    cells = pd.DataFrame({"row": [*arrays, *(missing or {})]})
    by_estimator = {"arrays": {"smoothing_curves": arrays}, "missing_arrays": {"smoothing_curves": missing or {}}}
    return FigureData("", cells, {}, {}, {}, {}, {"one": "exponential"}, **by_estimator)


def test_curves_gradients_and_trade_are_those_of_the_arrays():
    arrays = {name: curves(4.0, 9.0) for name in ("one", "two", "three", "four")}
    figure = smoothings.draw(smoothing_data(arrays, {"away": "failed: refused"}), smoothings.Options())
    above, below = figure.axes[:2]
    assert above.get_title(loc="left") == "a  exponential"
    assert [line.get_label() for line in above.lines] == ["β = 4", "β = 9"]
    for line, zeta in zip(above.lines, arrays["one"]["zeta"]):
        np.testing.assert_array_equal(line.get_xdata(), arrays["one"]["rho"])
        np.testing.assert_array_equal(line.get_ydata(), zeta)
    drawn = below.lines[1].get_ydata()
    np.testing.assert_allclose(drawn, arrays["one"]["gradient"][1])
    assert below.get_yscale() == "log"
    assert any("failed: refused" in text.get_text() for axes in figure.axes for text in axes.texts)
    trade = figure.axes[-1]
    assert trade.get_title(loc="left").startswith("f  what sharpness costs")
    assert len(trade.lines) == 4
    np.testing.assert_allclose(trade.lines[0].get_xdata(), [1 / 4, 1 / 9])
    np.testing.assert_allclose(trade.lines[0].get_ydata(), [4, 9])
    assert [text.get_text() for text in trade.texts] == ["9"] * 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["exponential", "two", "three", "four"]


def test_without_curves_it_says_why():
    (axes,) = smoothings.draw(smoothing_data({}, {"away": "failed: refused"}), smoothings.Options()).axes
    assert "failed: refused" in axes.texts[0].get_text()
    (axes,) = smoothings.draw(smoothing_data({}), smoothings.Options()).axes
    assert "smoothing_curves" in axes.texts[0].get_text()


EPOCHS = (1, 10, 100)
SERIES = {"exponential": (10, 16), "power_function": (15, 30)}


def relaxed_cells(**changes) -> pd.DataFrame:
    made = []
    for epochs in EPOCHS:
        for place, (smoothing, betas) in enumerate(SERIES.items()):
            for beta in betas:
                cell = {"row": f"machine epochs={epochs}", "parameters": {"epochs": epochs}, "estimator_se": 3e-3}
                cell |= {"settings": {"smoothing": smoothing, "beta": beta}, "test_se": 4e-3}
                made.append(cell | {"metric": "divergence", "obtained": (1 + place) * epochs / beta})
                if beta in (10, 30):
                    made.append(cell | {"metric": "gradient_variance", "obtained": 5.0 * (1 + place) * epochs})
    return pd.DataFrame(made).assign(**changes)


def relaxed_data(cells, arrays=None, missing=None) -> FigureData:
    by_estimator = {"mean_field_divergence": arrays or {}}, {"mean_field_divergence": missing or {}}
    return FigureData("", cells, {}, {}, {}, {}, {}, arrays=by_estimator[0], missing_arrays=by_estimator[1])


def test_rounds_are_of_the_longest_training_and_lines_those_of_the_cells():
    rounds = {f"machine epochs={e}": {"divergence": e * np.ones((4, 50)) / [[1], [2], [4], [0.0001]]} for e in EPOCHS}
    rounds["machine epochs=100"]["divergence"][3] = 0.0
    figure = relaxed_priors.draw(relaxed_data(relaxed_cells(), rounds), relaxed_priors.Options())
    first, along, noise = figure.axes
    mean = first.lines[-1]
    np.testing.assert_allclose(mean.get_ydata(), [100, 50, 25, 1e-6])
    assert len(first.lines) == 30 + 1
    assert "exponential, β = 10" in first.texts[0].get_text()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [f"{name.replace('_', ' ')}, β = {beta}" for name, betas in SERIES.items() for beta in betas]
    lines = [container.lines[0] for container in along.containers]
    assert len(lines) == 4
    for line, (place, beta) in zip(lines, [(0, 10), (0, 16), (1, 15), (1, 30)]):
        np.testing.assert_array_equal(line.get_xdata(), EPOCHS)
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), (1 + place) * np.array(EPOCHS) / beta)
    (bars,) = along.containers[0].lines[2]
    assert np.diff(bars.get_segments()[0][:, 1]) == pytest.approx(2 * 5e-3)  # both uncertainties together
    of_noise = {container.lines[0].get_marker() for container in noise.containers}
    assert of_noise == {lines[0].get_marker(), lines[3].get_marker()}
    assert all("[" in panel.get_xlabel() and "[nats" in panel.get_ylabel() for panel in figure.axes)


def test_arrays_elsewhere_leave_the_cells_and_no_cells_leave_a_reason():
    missing = {"machine epochs=100": "the arrays are not on this machine"}
    first, along, _ = relaxed_priors.draw(relaxed_data(relaxed_cells(), missing=missing), relaxed_priors.Options()).axes
    assert first.texts[0].get_text() == "the arrays are not on this machine"
    assert along.containers
    (axes,) = relaxed_priors.draw(relaxed_data(relaxed_cells(obtained=np.nan)), relaxed_priors.Options()).axes
    assert "has come out yet" in axes.texts[0].get_text()


def test_equal_data_give_equal_bytes(tmp_path):
    data = smoothing_data({"one": curves(4.0, 9.0)})
    written = [save(smoothings.draw(data, smoothings.Options()), tmp_path / name, "s") for name in ("one", "two")]
    for first, second, extension in zip(*written, FORMATS, strict=True):
        assert first.suffix == f".{extension}"
        assert first.read_bytes() == second.read_bytes()
