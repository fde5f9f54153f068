"""Student-t mixtures with given or random parameters, their scores by scipy, and data with heavy tails."""

import numpy as np
import torch
from scipy import stats

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.mixtures import student_t_mixture
from dgmbench.training.session import Session

D, K = 4, 3


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def heavy_clusters(n: int = 900, spread: float = 3.0, degrees: float = 3.0, seed: int = 7) -> np.ndarray:
    g = np.random.default_rng(seed)
    scale = np.sqrt(degrees / g.chisquare(degrees, size=(K, n // K, 1)))
    parts = [
        scale[k] * g.normal(size=(n // K, D)) @ g.normal(size=(D, D)) + spread * g.normal(size=D) for k in range(K)
    ]
    x = np.concatenate(parts).astype(np.float32)
    g.shuffle(x)
    return x


def dataset(x: np.ndarray) -> Dataset:
    split = Split(x)
    return Dataset("made", "made", "real", x.shape[1:], dict.fromkeys(("train", "validation", "test"), split), {})


def fit(x: np.ndarray, session: Session | None = None, module=student_t_mixture, **spec):
    model = module.Model(module.Spec(**spec), x.shape[1])
    model.fit(dataset(x), session or Session(rng()))
    return model


def model_of(log_weights, means, scales, degrees):
    """A mixture with given parameters: (k,), (k, d), (k, d, d), (k,)."""
    model = student_t_mixture.Model(student_t_mixture.Spec(components=len(means)), len(means[0]))
    tensors = [torch.tensor(np.asarray(value), dtype=torch.float64) for value in (log_weights, means, scales, degrees)]
    model.load_state(
        dict(zip(("log_weights", "means", "factors", "degrees"), tensors))
        | {"factors": torch.linalg.cholesky(tensors[2])}
    )
    return model


def parameters(model) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    state = model.state()
    scales = state["factors"] @ state["factors"].mT
    return tuple(t.numpy() for t in (state["log_weights"], state["means"], scales, state["degrees"]))


def random_parameters(d: int, k: int = K, seed: int = 1):
    g = np.random.default_rng(seed)
    roots = g.normal(size=(k, d, d))
    scales = roots @ roots.transpose(0, 2, 1) + 0.2 * np.eye(d)
    return np.log(g.dirichlet(5 * np.ones(k))), 2 * g.normal(size=(k, d)), scales, np.array([0.8, 3.0, 40.0])[:k]


def scores(x: np.ndarray, log_weights, means, scales, degrees) -> np.ndarray:
    """log pi_k t(x; mu_k, S_k, nu_k) by scipy: (n, k)."""
    terms = zip(log_weights, means, scales, degrees, strict=True)
    return np.stack([w + np.atleast_1d(stats.multivariate_t(m, s, df=v).logpdf(x)) for w, m, s, v in terms], 1)
