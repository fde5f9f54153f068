"""What a person starts from is valid as it is written: a dataset of one's own, and an experiment that tries it."""

import gzip
import zipfile

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from dgmbench import starting
from dgmbench.data import catalogue
from dgmbench.data.fetch import fetch
from dgmbench.data.prepare import open_dataset, prepare
from dgmbench.errors import UserError
from dgmbench.schemas import Experiment

RNG = np.random.default_rng(0)


@pytest.fixture
def own(tmp_path, monkeypatch):
    folder = tmp_path / "catalogue"
    folder.mkdir()
    monkeypatch.setattr(catalogue, "CATALOGUE", folder)
    return folder


def photographs(folder, count=30, kinds=("cat", "dog"), mode="RGB"):
    for number in range(count):
        path = folder / kinds[number % len(kinds)] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (40, 60, 3) if mode == "RGB" else (40, 60), dtype=np.uint8)
        Image.fromarray(pixels, mode).save(path)
    return folder


@pytest.mark.parametrize(("mode", "shape"), [("RGB", (21, 32, 3)), ("L", (21, 32))])
def test_a_folder_of_images_becomes_a_dataset(own, tmp_path, mode, shape):
    starting.new_dataset("pets", photographs(tmp_path / "pets", mode=mode), {"validation": 0.2})
    fetch("pets", tmp_path / "raw")
    data = open_dataset(prepare(catalogue.resolve("pets"), tmp_path / "raw", tmp_path / "prepared"))
    assert data.shape == shape
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 18, "validation": 6, "test": 6}
    assert set(np.concatenate([part.labels for part in data.splits.values()]).tolist()) == {0, 1}
    assert "0 cat, 1 dog" in data.certificate["notes"]["labels"]


def test_an_archive_with_files_beside_the_images(own, tmp_path):
    photographs(tmp_path / "pets", kinds=("all",))
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        archive.writestr("__MACOSX/._000.png", b"not an image")
        archive.writestr("README.txt", b"text")
        for path in sorted((tmp_path / "pets").rglob("*.png")):
            archive.write(path, path.name)
    starting.new_dataset("pets", tmp_path / "pets.zip", {})
    fetch("pets", tmp_path / "raw")
    data = open_dataset(prepare(catalogue.resolve("pets"), tmp_path / "raw", tmp_path / "prepared"))
    assert sum(map(len, data.splits.values())) == 30
    assert data.train.labels is None, "one folder labels nothing"
    assert data.certificate["notes"]["passed_over"] == {".txt": 1, "hidden": 1}


@pytest.mark.parametrize(
    ("ending", "save", "values", "options"),
    [
        (".npy", lambda path, x: np.save(path, x), "real", {}),
        (".npz", lambda path, x: np.savez(path, data=(x > 0).astype(int)), "binary", {"array": "data"}),
        (".csv", lambda path, x: pd.DataFrame(abs(x) % 1, columns=list("abcd")).to_csv(path, index=False), "unit", {}),
        (
            ".csv.gz",
            lambda path, x: path.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in x).encode())),
            "real",
            {},
        ),
        (".parquet", lambda path, x: pd.DataFrame(x, columns=list("abcd")).to_parquet(path), "real", {}),
    ],
)
def test_an_array_becomes_a_dataset_of_the_narrowest_kind(own, tmp_path, ending, save, values, options):
    path = tmp_path / f"mine{ending}"
    save(path, RNG.normal(size=(50, 4)))
    starting.new_dataset("mine", path, options)
    fetch("mine", tmp_path / "raw")
    data = open_dataset(prepare(catalogue.resolve("mine"), tmp_path / "raw", tmp_path / "prepared"))
    assert (data.values, data.shape, len(data.train)) == (values, (4,), 35)


def test_what_cannot_be_a_dataset_is_refused_and_leaves_nothing(own, tmp_path):
    np.save(tmp_path / "flat.npy", np.arange(5.0))
    np.savez(tmp_path / "two.npz", a=np.eye(3), b=np.eye(3))
    np.save(tmp_path / "fine.npy", np.eye(3))
    (tmp_path / "notes.txt").write_text("no data")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    cases = {
        "missing": "there is no",
        "notes.txt": "is neither",
        "flat.npy": "a row for each",
        "two.npz": "set option `array`",
        "empty": "holds no image",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            starting.new_dataset("mine", tmp_path / name, {})
    with pytest.raises(UserError, match="no option 'colour'"):
        starting.new_dataset("mine", tmp_path / "fine.npy", {"colour": True})
    with pytest.raises(UserError, match=r"--options: labels: .*string"):
        starting.new_dataset("mine", tmp_path / "fine.npy", {"labels": True})
    with pytest.raises(UserError, match="cannot name a dataset"):
        starting.new_dataset("My Data", tmp_path / "fine.npy", {})
    assert list(own.iterdir()) == []


@pytest.mark.parametrize(
    ("dataset", "models", "left_out"),
    [
        ("digits-binary", {"rbm", "vae", "independent"}, {"gmm"}),
        ("toys-two-moons", {"gmm", "gaussian"}, {"rbm"}),
        ("coil20", {"independent"}, {"rbm"}),
    ],
)
def test_an_experiment_of_every_model_that_accepts_a_dataset(tmp_path, monkeypatch, dataset, models, left_out):
    from dgmbench.params import Params
    from dgmbench.runs import make_plan

    monkeypatch.setattr(starting, "EXPERIMENTS_ROOT", tmp_path)
    experiment = Experiment.model_validate(yaml.safe_load(starting.new_experiment("try-it", dataset).read_text()))
    assert models <= experiment.rows.keys()
    assert not left_out & experiment.rows.keys()
    for budget in ("smoke", "laptop"):
        plan = make_plan(Params(budget=budget), {"try-it": experiment})
        assert {run.model for run in plan.runs.values()} == set(experiment.rows)
    split = "train" if dataset == "coil20" else "test"
    assert {e.settings["split"] for e in plan.evaluations.values() if e.estimator == "exact_likelihood"} == {split}


def test_no_experiment_on_what_no_model_can_be_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "EXPERIMENTS_ROOT", tmp_path)
    with pytest.raises(UserError, match="no train split, only test"):
        starting.new_experiment("try-it", "set12")
