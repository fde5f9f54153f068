"""Training in several processes: the same parameters as in one, and the bytes that it takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.distributed_training import CASES, D, N, fit

from dgmbench.models.registry import model_class, model_modules
from dgmbench.training.distributed import Group

SCRIPT = Path(__file__).parent / "distributed_training.py"


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory):
    """What every process ends with, by case and how many there are; all cases in one start of torchrun."""
    folders: dict[int, Path] = {}

    def found(case: str, size: int) -> list[tuple[dict, list]]:
        if size not in folders:
            folders[size] = tmp_path_factory.mktemp(f"of-{size}")
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
            alone = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run([*launch, SCRIPT, folders[size]], check=True, timeout=300, env=alone)
        ends = []
        for name in (f"{case}-{rank}" for rank in range(size)):
            said = json.loads((folders[size] / f"{name}.json").read_text())
            assert said["size"] == size
            ends.append((load_file(folders[size] / f"{name}.safetensors"), said["history"]))
        return ends

    return found


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_several_processes_give_the_parameters_of_one(case, size, in_processes):
    alone, history = fit(case)
    for state, their_history in in_processes(case, size):
        for name, value in alone.items():
            np.testing.assert_allclose(state[name].numpy(), value.numpy(), rtol=1e-5, atol=1e-5)
        for mine, theirs in zip(history, their_history, strict=True):
            for name in {"log_likelihood", "best_path_log_likelihood", "switch_rate"} & mine.keys():
                assert theirs[name] == pytest.approx(mine[name], rel=1e-6, abs=1e-9)
            # Bytes put into collective operations: statistics, and the heuristic's paths, over the data's own bytes.
            assert theirs["exchanged_share"] > 0
    assert all("exchanged_share" not in row for row in history)


@pytest.mark.parametrize("size", [2, 4])
def test_the_bytes_counted_are_the_statistics_nodes_and_tallies(size, in_processes):
    _, history = in_processes("deep-hard", size)[0]
    nodes, paths, entries = 4 + 2 + 2, 16, (D + 1) ** 2
    bytes_of_float64 = 8 * (paths * entries + nodes * entries + 2 + 1)  # moments, nodes, two tallies, evaluations
    assert history[0]["exchanged_share"] == pytest.approx(bytes_of_float64 / (N * D * 8))


def test_every_model_that_says_it_is_distributed_is_tested_here():
    distributed = {name for name in model_modules() if getattr(model_class(name), "distributed", False)}
    assert distributed == {name for name, _ in CASES.values()}


def test_shards_are_contiguous_complete_and_even():
    group = Group()
    assert (group.rank, group.size) == (0, 1)
    assert group.share(7) == slice(0, 7)
    for size in (2, 3, 4):
        group.size, shards = size, []
        for group.rank in range(size):
            shards.append(list(range(N))[group.share(N)])
        assert [row for shard in shards for row in shard] == list(range(N))
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_one_process_exchanges_nothing():
    group, tensor, paths = Group(), torch.ones(3), torch.zeros(4, dtype=torch.int64)
    group.sum(tensor)
    group.place(paths, torch.tensor([1, 3]), torch.tensor([5, 6]))
    assert paths.tolist() == [0, 5, 0, 6]
    assert tensor.tolist() == [1, 1, 1]
    assert group.exchanged == 0
