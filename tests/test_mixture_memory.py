"""What training a mixture holds: the whitened data, and nothing else that grows with the number of examples."""

import json
import os
import subprocess
import sys

import pytest

D, FEW, MANY = 24, 200_000, 400_000
CASES = {
    "gmm": {"components": 40, "start": "random"},
    "student_t_mixture": {"components": 40, "start": "random"},
    "deep_gmm": {"components": [8, 5], "start_examples": 2000, "start_iterations": 2},
}
SCRIPT = """
import json, resource, sys
import numpy as np, torch
from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.registry import model_class
from dgmbench.training.session import Session

name, options, d, count, most = json.loads(sys.argv[1])
torch.set_num_threads(1)
x = np.random.default_rng(0).standard_normal((most, d), dtype=np.float32)
train, few = Split(x[:count]), Split(x[:2000])
data = Dataset("made", "made", "real", (d,), {"train": train, "validation": few, "test": few}, {})
model = model_class(name)(model_class(name).Spec(iterations=1, tolerance=0.0, ridge=0.01, **options), d)
model.fit(data, Session(torch.Generator().manual_seed(1)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(name: str, count: int) -> int:
    """Bytes, of a process that has made all examples and trains on the first `count`."""
    arguments = json.dumps([name, CASES[name], D, count, MANY])
    # What is freed goes back at once: the peak is of what is held, not of what the allocator keeps.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", SCRIPT, arguments]
    return 1024 * int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
@pytest.mark.parametrize("name", CASES)
def test_beside_the_data_memory_does_not_grow_with_the_examples(name):
    data = (MANY - FEW) * D * 4
    # The whitened copy is as large as the data. Responsibilities would be 1.7 times it, features 13 times.
    assert peak(name, MANY) - peak(name, FEW) < 1.3 * data
