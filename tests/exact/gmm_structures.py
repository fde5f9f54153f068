"""Gaussian mixtures of every covariance structure, and clusters to fit them to."""

import numpy as np
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.mixtures import _covariances, gmm
from dgmbench.training.session import Session

D, K = 4, 3
STRUCTURES = sorted(_covariances.STRUCTURES)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(n: int = 900, spread: float = 2.0, d: int = D, seed: int = 7) -> np.ndarray:
    g = np.random.default_rng(seed)
    parts = [g.normal(size=(n // K, d)) @ g.normal(size=(d, d)) + spread * g.normal(size=d) for _ in range(K)]
    x = np.concatenate(parts).astype(np.float32)
    g.shuffle(x)
    return x


def fit(x: np.ndarray, session: Session | None = None, **spec) -> gmm.Model:
    split = Split(x)
    data = Dataset("made", "made", "real", x.shape[1:], dict.fromkeys(("train", "validation", "test"), split), {})
    model = gmm.Model(gmm.Spec(**spec), x.shape[1])
    model.fit(data, session or Session(rng()))
    return model


def parameters(model: gmm.Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    state = model.state()
    return state["log_weights"].numpy(), state["means"].numpy(), (state["factors"] @ state["factors"].mT).numpy()
