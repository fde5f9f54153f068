"""Trainings as a script, for torchrun to start in several processes: python distributed_training.py FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.registry import model_class
from dgmbench.training.distributed import joined
from dgmbench.training.session import Session

D, N = 5, 3001  # not a multiple of any number of processes
FEW = 61

CASES = {
    "gmm": ("gmm", {"components": 4}),
    "gmm-hard-low-rank": ("gmm", {"components": 3, "assignment": "hard", "covariance": "low_rank", "rank": 2}),
    "gmm-minibatch": ("gmm", {"components": 4, "minibatch": 500, "covariance": "diagonal"}),
    "student-t": ("student_t_mixture", {"components": 3}),
    "deep-soft": ("deep_gmm", {"components": (5, 3), "assignment": "soft"}),
    "deep-heuristic": (
        "deep_gmm",
        {"components": (5, 3), "assignment": "heuristic", "minibatch": 1000, "pseudo_count": 1.0},
    ),
    "deep-minibatch": ("deep_gmm", {"components": (3, 2), "minibatch": 700, "ridge": 0.01}),
    # The last minibatch is a single example: every other process sees none.
    "deep-lonely": ("deep_gmm", {"components": (2, 2), "minibatch": FEW - 1, "ridge": 0.1, "start_examples": FEW}),
    "gmm-lonely": ("gmm", {"components": 2, "minibatch": FEW - 1, "ridge": 0.1}),
    "deep-hard": ("deep_gmm", {"components": (4, 2, 2), "assignment": "hard", "pseudo_count": 1.0}),
}


def data(count: int = N) -> Dataset:
    g = np.random.default_rng(3)
    parts = [g.normal(size=(N // 3 + 1, D)) @ g.normal(size=(D, D)) + 2 * g.normal(size=D) for _ in range(3)]
    x = np.concatenate(parts).astype(np.float32)
    g.shuffle(x)
    x = x[:count]
    return Dataset("made", "made", "real", (D,), dict.fromkeys(("train", "validation", "test"), Split(x)), {})


def fit(case: str) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    name, options = CASES[case]
    options = {"iterations": 6, "tolerance": 0.0, "precision": "float64"} | options
    model = model_class(name)(model_class(name).Spec(**options), D)
    session = Session(torch.Generator().manual_seed(5))
    model.fit(data(FEW if case.endswith("lonely") else N), session)
    return model.state(), session.history


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with joined("cpu") as group:
        for case in CASES:
            state, history = fit(case)
            name = f"{case}-{group.rank}"
            save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")
            (folder / f"{name}.json").write_text(json.dumps({"size": group.size, "history": history}))
