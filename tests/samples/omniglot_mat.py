"""A MATLAB file in the layout of chardata.mat, with few images."""

import numpy as np
import scipy.io

from dgmbench.data.datasets import omniglot_mat


def make(folder, monkeypatch):
    columns = {"data": 40, "testdata": 20}
    monkeypatch.setattr(omniglot_mat, "_COLUMNS", columns)
    rng, path, held = np.random.default_rng(0), folder / "chardata.mat", {}
    for (name, n), target in zip(columns.items(), ("target", "testtarget")):
        held[name] = rng.random((784, n))
        held[target] = np.eye(50)[rng.integers(0, 50, n)].T
    scipy.io.savemat(path, held, do_compression=True)
    return {path.name: path}, {"validation": 10}
