"""A MATLAB file of a few images in the layout of COIL-20."""

import numpy as np
import scipy.io

from dgmbench.data.datasets import matlab_images

COUNTS = (3, 2, 4)


def make(folder, monkeypatch):
    known = matlab_images._Known(1, COUNTS, {"labels": "made"})
    monkeypatch.setitem(matlab_images._FILES, "COIL20.mat", known)
    path = folder / "COIL20.mat"
    scipy.io.savemat(path, contents(), do_compression=True)
    return {path.name: path}, {"validation": 2, "test": 1}


def contents():
    fea = np.random.default_rng(0).integers(0, 256, (sum(COUNTS), 1024)) / 255
    return {"fea": fea, "gnd": np.repeat(np.arange(1, len(COUNTS) + 1), COUNTS).astype(np.uint8)[:, None]}
