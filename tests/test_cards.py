"""Dataset cards: a picture of every shape of data, and no certificate that belongs to other data."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgmbench.data import catalogue
from dgmbench.data.prepared import Dataset, Split
from dgmbench.preparation import DONE, FAILED, NOT_FETCHED, prepare_all, write_benchmark
from dgmbench.report import cards

ROOT = Path(__file__).resolve().parents[1]
RNG = np.random.default_rng(0)


def dataset(shape, rows=40, notes=None, x=None, labels=None) -> Dataset:
    x = RNG.random((rows, int(np.prod(shape)))) if x is None else x
    return Dataset("made", "0", "unit", shape, {"train": Split(x, labels=labels)}, {"notes": notes or {}})


@pytest.mark.parametrize("shape", [(8, 8), (28, 20), (63,), (143,), (12, 10, 3), (2,), (617,)])
def test_every_shape_has_a_picture(shape):
    labels = np.arange(40) % 3
    image = Image.open(io.BytesIO(cards.picture(dataset(shape, labels=labels))))
    assert min(image.size) > 100
    assert image.convert("L").getextrema()[0] < image.convert("L").getextrema()[1]


def test_the_picture_is_the_same_each_time_and_shows_rows_at_equal_distances():
    x = np.zeros((50, 4))
    x[np.linspace(0, 49, 25).round().astype(int)] = 1.0
    one, two = (cards.picture(dataset((2, 2), x=x)) for _ in range(2))
    assert one == two
    greys = set(np.unique(np.asarray(Image.open(io.BytesIO(one)))).tolist())
    assert greys == {255, 166}, "only chosen rows, all of them ones, and the gaps between them"


def test_images_of_several_sizes_are_cropped_to_their_own():
    x = np.zeros((2, 6, 8))
    x[0, :6, :4], x[1, :3, :8] = 0.5, 0.25
    notes = {"sizes": {"train": [[6, 4], [3, 8]]}}
    image = np.asarray(Image.open(io.BytesIO(cards.picture(dataset((6, 8), x=x.reshape(2, -1), notes=notes)))))
    assert {128, 64} <= set(np.unique(image).tolist()), "grey values of both images"
    assert 0 not in image, "nothing of the canvas beside them"


def test_a_certificate_of_other_data_makes_no_card(tmp_path):
    ref = catalogue.resolve("toys-two-moons")
    (tmp_path / "toys-two-moons.json").write_text(json.dumps({"identity": ref.identity, "notes": {}, "splits": {}}))
    found = {card.entry.name: card for card in cards.cards({}, tmp_path, tmp_path)}
    assert found.keys() == catalogue.entries().keys()
    assert found["toys-two-moons"].certificate is not None
    (tmp_path / "toys-two-moons.json").write_text(json.dumps({"identity": "of another version", "notes": {}}))
    stale = {card.entry.name: card for card in cards.cards({}, tmp_path, tmp_path)}["toys-two-moons"]
    assert stale.certificate is None
    assert stale.commands == "dgmbench prepare toys-two-moons"
    assert found["mnist"].commands == "dgmbench fetch mnist && dgmbench prepare mnist"


def test_datasets_that_are_used_come_first_and_once(tmp_path):
    ref = catalogue.resolve("toys-two-moons", {"train": 10})
    found = cards.cards({ref.key: ref}, tmp_path, tmp_path)
    assert [card.used for card in found] == [True] + [False] * (len(found) - 1)
    assert sorted(card.entry.name for card in found) == sorted(catalogue.entries())


def test_preparing_all_measures_each_and_a_failure_is_a_row(tmp_path):
    raw = tmp_path / "raw"
    (raw / "digits").mkdir(parents=True)
    (raw / "digits" / "manifest.json").write_text("{}")
    (raw / "digits" / "digits.csv.gz").write_bytes(b"not the digits")
    results = prepare_all(["toys-rings", "digits", "mnist-static"], raw, tmp_path / "prepared", tmp_path / "cards")
    assert [r.status for r in results] == [DONE, FAILED, NOT_FETCHED]
    done, failed, absent = results
    assert done.rows == 9000
    assert done.values == 2
    assert done.rows_per_second > 0
    assert 10 < done.peak_mb < 1000
    assert "digits.csv.gz" in failed.reason
    assert "dgmbench fetch mnist-static" in absent.reason
    assert (tmp_path / "cards" / "toys-rings.json").is_file()
    assert Image.open(tmp_path / "cards" / "toys-rings.png").size[0] > 100
    write_benchmark(tmp_path / "b.csv", results)
    lines = (tmp_path / "b.csv").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("toys-rings,")


def test_splits_that_the_loader_did_not_declare_are_a_mistake_of_the_loader(tmp_path, monkeypatch):
    from dgmbench.data import prepare as prepare_module

    ref = catalogue.resolve("toys-rings", {"train": 10, "validation": 10, "test": 10})
    monkeypatch.setattr(prepare_module, "splits", lambda ref: ("train", "test"))
    with pytest.raises(RuntimeError, match="declares the splits"):
        prepare_module.prepare(ref, tmp_path, tmp_path / "prepared")
    assert list((tmp_path / "prepared").iterdir()) == []


def test_a_split_that_is_not_there_is_refused_in_a_sentence(tmp_path):
    from dgmbench.data.prepare import open_dataset, prepare
    from dgmbench.errors import CannotBeDone

    ref = catalogue.resolve("toys-rings", {"train": 10, "validation": 10, "test": 10})
    directory = prepare(ref, tmp_path, tmp_path / "prepared")
    facts = json.loads((directory / "certificate.json").read_text())
    del facts["splits"]["validation"]
    (directory / "certificate.json").write_text(json.dumps(facts))
    with pytest.raises(CannotBeDone, match="no validation split"):
        _ = open_dataset(directory).validation


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "datasets").glob("*.json")), ids=lambda path: path.stem)
def test_the_committed_cards_are_of_the_catalogue_as_it_is(path):
    told = json.loads(path.read_text())
    assert told["identity"] == catalogue.resolve(path.stem).identity, f"run: dgmbench prepare {path.stem}"
    assert Image.open(path.with_suffix(".png")).size[0] > 100
