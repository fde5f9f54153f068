"""Deep GMMs with random parameters, the scores of their paths by scipy, and data in clusters."""

import itertools
import math

import numpy as np
import torch
from scipy import stats

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.mixtures import deep_gmm
from dgmbench.training.session import Session

D = 3


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(n: int = 1200, parts: int = 4, seed: int = 7, d: int = D) -> np.ndarray:
    g = np.random.default_rng(seed)
    x = [g.normal(size=(n // parts, d)) @ g.normal(size=(d, d)) + 2 * g.normal(size=d) for _ in range(parts)]
    whole = np.concatenate(x).astype(np.float32)
    g.shuffle(whole)
    return whole


def fit(x: np.ndarray, session: Session | None = None, module=deep_gmm, **spec):
    split = Split(x)
    data = Dataset("made", "made", "real", x.shape[1:], dict.fromkeys(("train", "validation", "test"), split), {})
    model = module.Model(module.Spec(**spec), x.shape[1])
    model.fit(data, session or Session(rng()))
    return model


def random_model(sizes=(3, 2, 2), d: int = D, seed: int = 0, spread: float = 1.0):
    """A Deep GMM with given layers, and its parameters as numpy arrays: matrices, biases of each layer, weights."""
    g = np.random.default_rng(seed)
    # Products of well-conditioned matrices stay well conditioned: rotations of stretched axes.
    matrices = [np.linalg.qr(g.normal(size=(n, d, d)))[0] * g.uniform(0.5, 1.6, size=(n, 1, d)) for n in sizes]
    biases = [spread * g.normal(size=(n, d)) for n in sizes]
    weights = g.dirichlet(3 * np.ones(math.prod(sizes)))
    model = deep_gmm.Model(deep_gmm.Spec(components=sizes), d)
    state = {"log_weights": torch.from_numpy(np.log(weights))}
    for j, (a, b) in enumerate(zip(matrices, biases, strict=True), 1):
        state |= {f"matrices_{j}": torch.from_numpy(a), f"biases_{j}": torch.from_numpy(b)}
    model.load_state(state)
    return model, matrices, biases, weights


def path_scores(x: np.ndarray, matrices, biases, weights) -> np.ndarray:
    """log pi_p N(x; beta_p, Omega_p Omega_p^T) by equations 1 to 3, path after path, and scipy: (n, P)."""
    columns = []
    for weight, path in zip(weights, itertools.product(*(range(len(a)) for a in matrices)), strict=True):
        mean, root = np.zeros(x.shape[1]), np.eye(x.shape[1])
        for a, b, node in zip(matrices, biases, path, strict=True):
            mean, root = a[node] @ mean + b[node], a[node] @ root
        columns.append(np.log(weight) + stats.multivariate_normal(mean, root @ root.T).logpdf(x))
    return np.stack(columns, 1)
