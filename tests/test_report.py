"""The page: one file that needs no network, with every cell's number and provenance in it."""

import json
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest
import synthetic_results as synthetic

from dgmbench import files, runs
from dgmbench.assemble import ledger
from dgmbench.assemble.experiment import assemble
from dgmbench.errors import UserError
from dgmbench.report.site import build, embed
from dgmbench.runs import make_plan

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Collects elements and checks that every one is closed by its own tag."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.scripts, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    results = tmp_path_factory.mktemp("project") / "results"
    with pytest.MonkeyPatch.context() as monkeypatch:
        synthetic.stand_ins(monkeypatch)
        experiments = synthetic.experiments()
        synthetic.write_everything(results, make_plan(synthetic.params(), experiments))
        for name in experiments:
            assemble(name, synthetic.params(), experiments, results, results.parent / "data")
        ledger.collect(results, synthetic.params(), experiments)
        path = build(synthetic.params(), experiments, results)
    page = Page()
    page.feed(path.read_text())
    return results, path, page


def test_page_is_well_formed_and_needs_no_network(built):
    _, _, page = built
    assert page.open == []
    for tag, attributes in page.elements:
        followed = () if tag == "a" else ("href",)  # a link is opened by a person alone
        for name in ("src", "action", "data", "poster", "srcset", *followed):
            assert not re.match(r"(?:https?:)?//", attributes.get(name, "") or ""), (tag, attributes)
    assert not any(tag == "link" and attributes["rel"] == "stylesheet" for tag, attributes in page.elements)
    assert "@import" not in built[1].read_text()


def test_every_ledger_cell_has_a_button_whose_provenance_is_embedded(built):
    results, _, page = built
    rows = ledger.read_csv(results / "demo" / "ledger.csv")
    data = json.loads(page.scripts[0])
    wanted = {(row["experiment"], ledger.key(row)): row["obtained"] for row in rows}
    found = [(a["data-experiment"], a["data-key"]) for tag, a in page.elements if a.get("class") == "cell"]
    assert set(found) == set(wanted)
    assert len(found) == 2 * len(wanted)
    for (experiment, key), obtained in wanted.items():
        assert data[experiment]["cells"][key]["obtained"] == obtained


def test_identifiers_are_unique_and_links_lead_somewhere(built):
    _, _, page = built
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for tag, attributes in page.elements:
        if tag == "a":
            assert attributes["href"].startswith("https://") or attributes["href"][1:] in identifiers
        for name in ("aria-labelledby",):
            if name in attributes:
                assert attributes[name] in identifiers


def test_figures_have_alternative_text(built):
    _, _, page = built
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == 6
    assert all(len(picture["alt"]) > 20 for picture in pictures)
    assert all(picture["src"].startswith("data:image/svg+xml;base64,") for picture in pictures)


def test_page_says_what_training_took_and_what_a_picture_does_not_show(built, monkeypatch, tmp_path):
    results, _, page = built
    text = " ".join(" ".join(page.text).split())
    assert text.count("What training and evaluation took") == 2
    assert re.search(r"1[23] s", text)
    assert "A processor, cpu" in text
    assert "It stands" not in text
    there = tmp_path / "results"
    shutil.copytree(results, there)
    path = there / "demo" / "provenance" / "patches-check.json"
    shown = files.read_json(path)
    shown["pictures"]["-samples"]["kept"] = "It stands."
    files.write_json(path, shown)
    synthetic.stand_ins(monkeypatch)
    html = build(synthetic.params(), synthetic.experiments(), there).read_text()
    assert "<figcaption>Samples of the first seed of each row. It stands.\n" in html


def test_page_says_what_failed_and_what_numbers_mean(built):
    _, _, page = built
    text = " ".join(" ".join(page.text).split())
    for expected in (
        "diverged at step 40",
        "the model is not here yet",
        "Standard error over test examples",
        "Sample standard deviation over training seeds",
        "0123456789ab",
        "train and validation 1",
        "Mixtures of Patches & Co.",
    ):
        assert expected in text


def test_page_shows_the_error_over_seeds_of_differences(built, monkeypatch, tmp_path):
    synthetic.stand_ins(monkeypatch)
    results = shutil.copytree(built[0], tmp_path / "results")
    table = results / "demo" / "tables" / "patches-check-paired.csv"
    frame = pd.read_csv(table)
    frame["seed_se"] = 0.5
    frame.to_csv(table, index=False)
    page = Page()
    page.feed(build(synthetic.params(), synthetic.experiments(), results).read_text())
    text = " ".join(" ".join(page.text).split())
    assert text.count("± 0.50") == len(frame)
    told = (" ".join(" ".join(each.text).split()) for each in (built[2], page))
    of_one_seed = [each.count("may be no more than their noise") for each in told]
    assert of_one_seed[0] - of_one_seed[1] == text.count("The error over seeds stands beside them.") == 1


def test_page_names_what_each_difference_is_taken_to(built, monkeypatch, tmp_path):
    _, _, page = built
    text = " ".join(" ".join(page.text).split())
    assert "two rows: the difference to Gaussian , example by example" in text
    assert "compared with" not in text.replace("that it is compared with", "")
    synthetic.stand_ins(monkeypatch)
    results = shutil.copytree(built[0], tmp_path / "results")
    table = results / "demo" / "tables" / "patches-check-paired.csv"
    lines = table.read_text().splitlines()
    lines[1] = lines[1].replace(",gaussian,", ",gmm components=16,")
    assert "may be no more than their noise" in text
    # Tables of earlier versions have no error over seeds.
    assert lines[0].endswith(",seed_se,reason")
    lines = [",".join(cells[:-2] + cells[-1:]) for cells in (line.split(",") for line in lines)]
    table.write_text("\n".join(lines) + "\n")
    page = Page()
    page.feed(build(synthetic.params(), synthetic.experiments(), results).read_text())
    text = " ".join(" ".join(page.text).split())
    assert "the difference to the row that it is compared with, example by example" in text
    assert re.search(r"row\W+compared with\W+column", text)
    assert "Independent Gaussians GMM, components 16 test" in text
    assert "may be no more than their noise" in text


def test_page_names_what_it_leaves_out_and_what_was_superseded(built, monkeypatch, tmp_path):
    synthetic.stand_ins(monkeypatch)
    results = shutil.copytree(built[0], tmp_path / "results")
    experiments = synthetic.experiments()
    only_paper = experiments["patches-check"].model_copy(
        update={"title": "For a cluster", "budgets": {"paper": experiments["patches-check"].budgets["demo"]}}
    )
    monkeypatch.setattr(runs, "code_fingerprint", lambda *modules: "n3w")
    waiting = {"waiting": only_paper.model_copy(update={"title": "Waiting"})}
    path = build(synthetic.params(), experiments | {"clustered": only_paper}, results, waiting)
    page = Page()
    page.feed(path.read_text())
    text = " ".join(" ".join(page.text).split())
    assert "For a cluster clustered has no budget demo, only paper" in text
    assert "Waiting waiting nothing of it has been assembled here yet" in text
    assert "cells were made by earlier code or settings, commit 0123456789ab." in text
    cells = json.loads(page.scripts[0])["estimators-check"]["cells"]
    assert {cell["status"] for cell in cells.values()} == {"superseded"}


def test_embedded_json_cannot_end_its_script():
    text = embed({"reason": "</script><!-- & ]]>"})
    assert "<" not in text
    assert json.loads(text) == {"reason": "</script><!-- & ]]>"}


def test_equal_results_give_equal_pages(built, monkeypatch):
    synthetic.stand_ins(monkeypatch)
    results, path, _ = built
    before = path.read_bytes()
    build(synthetic.params(), synthetic.experiments(), results)
    assert path.read_bytes() == before


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(UserError, match=r"ledger.csv is missing"):
        build(synthetic.params(), synthetic.experiments(), tmp_path)
