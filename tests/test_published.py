"""Published numbers are found by what an experiment says, or the error says what to write."""

import pytest

from dgmbench.assemble.published import look_up
from dgmbench.errors import UserError
from dgmbench.schemas import PublishedCell

CELL = PublishedCell(
    evaluation="test",
    file="table",
    where={"model": "{model}", "k": "{k}"},
    value="nll",
    kind="exact",
    tolerance=1,
    protocol="as printed",
)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"file": "tabel"}, "did you mean 'table'?"),
        ({"where": {"modle": "gmm"}}, "did you mean 'model'?"),
        ({"value": "nl"}, "did you mean 'nll'?"),
        ({"where": {"model": "gmn"}}, "0 rows .* column 'model': did you mean 'gmm'?"),
        ({"where": {"model": "gmm"}}, "2 rows .* write one of the columns k, nll under 'where' too"),
        ({"where": {"model": "{modle}"}}, "did you mean 'model'?"),
        ({"where": {"model": "rbm"}}, "'about 3' is not a number"),
        ({"where": {"model": "dbn"}}, "'nan' is not a number"),
        ({"where": {"model": "vae"}}, "column nll: '' is not a number; write one there"),
        ({"where": {"model": "{model}", "k": "{k.x}"}}, r"^here: '{k.x}' is not a value with {name} placeholders \("),
        ({"where": {"model": "{model}", "k": "{k[0]}"}}, r"^here: '{k\[0\]}' is not a value with {name} placeholders"),
        ({"where": {"model": "{model}", "k": "{0}"}}, r"^here: '\{0\}' is not a value with {name} placeholders"),
        ({"where": {"model": "{model}", "k": "{layers[9]}"}}, r"is not a value with {name} placeholders \(list index"),
    ],
)
def test_published_lookup_says_what_to_write(tmp_path, change, says):
    (tmp_path / "table.csv").write_text("model,k,nll\ngmm,1,10\ngmm,5,9\nrbm,1,about 3\ndbn,1,nan\nvae\n")
    cell = CELL.model_copy(update=change)
    with pytest.raises(UserError, match=says):
        look_up(cell, {"model": "gmm", "k": 5, "layers": [1, 2]}, tmp_path, "here")


def test_a_row_of_the_file_with_fewer_or_more_fields_than_columns(tmp_path):
    cell = CELL.model_copy(update={"spread": "sd"})
    (tmp_path / "table.csv").write_text("model,k,nll,sd\ngmm,5,9\nrbm\n")
    assert look_up(cell, {"model": "gmm", "k": 5}, tmp_path, "here").spread is None
    (tmp_path / "table.csv").write_text("model,k,nll,sd\ngmm,5,9,1\nrbm,1,2,3,4\n")
    with pytest.raises(UserError, match=r"^here: line 3 of .*table\.csv has more fields than its first line; put"):
        look_up(cell, {"model": "gmm", "k": 5}, tmp_path, "here")


def test_published_lookup_fills_in_the_grid(tmp_path):
    (tmp_path / "table.csv").write_text("model,k,nll\ngmm,1,10\ngmm,5,9\n")
    assert look_up(CELL, {"model": "gmm", "k": 5}, tmp_path, "here").value == 9
