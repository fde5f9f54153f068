"""A folder of PNG files goes by one entry through the pipeline: certificate, card, every model that accepts it."""

import csv
import json

import numpy as np
import pytest
from PIL import Image


# Some sixty programs are started, each of which imports torch.
@pytest.mark.timeout(900)
def test_a_folder_of_pictures_is_tried_on_every_model(make_project, experiments, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(100):
        Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    project = make_project(experiments)
    options = json.dumps({"threshold": 0.5})
    project.dgmbench("new", "dataset", "mine", "--path", str(tmp_path / "pictures"), "--options", options)
    project.dgmbench("new", "experiment", "try-mine", "--dataset", "mine")
    project.snakemake("--config", "budget=smoke", "experiments=[try-mine]")
    with (project.root / "results/smoke/ledger.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    models = {row["model"] for row in rows if row["status"] in ("done", "unconverged") and row["obtained"]}
    assert models >= {"rbm", "vae", "independent", "kmeans", "training_set"}
    page = (project.root / "results/smoke/report/index.html").read_text()
    assert 'alt="25 examples of Mine"' in page
    (card,) = (project.root / "results/smoke/datasets").glob("mine-*.json")
    assert json.loads(card.read_text())["splits"]["train"]["rows"] == 70
