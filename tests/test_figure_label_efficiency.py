"""Error against labels: a line for each evaluation and start, through the points that the cells hold."""

import pandas as pd

from dgmbench.assemble.figures import label_efficiency
from dgmbench.assemble.figures.base import FigureData, style


def data(rows: tuple[str, ...]) -> FigureData:
    def cell(row: str, name: str, error: float, **settings):
        measured = {"metric": "error_rate", "obtained": error, "seed_sd": None, "test_se": 1.0, "estimator_se": 0.0}
        return {"row": row, "evaluation_name": name, "settings": settings, **measured}

    cells = []
    for row in rows:
        cells += [cell(row, "tuned", 100 / n, start=s, labels=n) for s in ("features", "random") for n in (50, 10)]
        cells += [cell(row, "tuned", 4.0, start="features"), cell(row, "tuned", None, start="features", labels=99)]
    return FigureData("", pd.DataFrame(cells), {}, {}, {}, {}, {"dbn": "DBN"})


def lines(drawn) -> dict:
    return {container.get_label(): container.lines[0] for container in drawn.axes[0].containers}


def test_every_start_has_its_line_through_its_cells():
    with style():
        drawn = label_efficiency.draw(data(("dbn",)), label_efficiency.Options())
    found = lines(drawn)
    assert found.keys() == {"tuned, start: features", "tuned, start: random"}
    assert list(found["tuned, start: random"].get_xdata()) == [10, 50]
    assert list(found["tuned, start: random"].get_ydata()) == [10.0, 2.0]
    assert "[%]" in drawn.axes[0].get_ylabel()
    assert "[count]" in drawn.axes[0].get_xlabel()


def test_rows_are_named_where_there_are_several():
    with style():
        drawn = label_efficiency.draw(data(("dbn", "other")), label_efficiency.Options())
    assert {"DBN, tuned, start: features", "other, tuned, start: random"} <= lines(drawn).keys()


def test_nothing_to_show_says_so():
    empty = data(("dbn",))
    empty.cells["obtained"] = float("nan")
    with style():
        assert "yet" in label_efficiency.draw(empty, label_efficiency.Options()).axes[0].texts[0].get_text()
