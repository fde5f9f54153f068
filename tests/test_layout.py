"""Where files lie, and folders of another format."""

import json

import pytest

from dgmbench.errors import UserError
from dgmbench.layout import FORMAT, Layout, check_format


def test_small_files_are_below_results_and_large_ones_below_data(tmp_path):
    layout = Layout("demo", tmp_path)
    assert layout.manifest("abc") == tmp_path / "results/demo/runs/abc/manifest.json"
    assert layout.evaluation("abc", "def").parent == layout.run("abc")
    assert layout.blobs("abc").is_relative_to(tmp_path / "data")
    assert layout.work("abc").is_relative_to(tmp_path / "work")


def test_a_new_folder_is_marked_and_then_accepted(tmp_path):
    check_format(tmp_path / "results")
    check_format(tmp_path / "results")
    assert json.loads((tmp_path / "results/format.json").read_text()) == {"format": FORMAT}


def test_another_format_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "format.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(UserError, match=rf"written in format {FORMAT + 1}.*move the folder"):
        check_format(tmp_path)


def test_a_folder_without_a_mark_is_not_overwritten(tmp_path):
    (tmp_path / "ledger.csv").write_text("precious")
    with pytest.raises(UserError, match=r"no format\.json"):
        check_format(tmp_path)
