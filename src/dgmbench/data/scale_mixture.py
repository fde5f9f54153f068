"""Gaussian scale mixtures, fitted by maximum likelihood.

    p(y) = sum_k w_k N(y; 0, t_k^2 S),    y in R^m, k = 1 ... K, one shape S for all scales, trace(S) = m

With responsibilities r_nk and q_n = y_n' S^-1 y_n, a step of conditional maximisations is

    w_k = mean_n r_nk;    t_k^2 = sum_n r_nk q_n / (m sum_n r_nk);    S = (1 / N) sum_n (sum_k r_nk / t_k^2) y_n y_n'

of which none lowers the likelihood. References: M. J. Wainwright and E. P. Simoncelli, "Scale mixtures of Gaussians
and the statistics of natural images" (2000); X.-L. Meng and D. B. Rubin, "Maximum likelihood estimation via the ECM
algorithm" (1993).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from dgmbench.progress import NoProgress, Progress

_NO_ROWS = 1e-8


@dataclass(frozen=True)
class ScaleMixture:
    """Weights (k,), scales (k,) in ascending order and in the unit of y, and the shape (m, m)."""

    weights: np.ndarray
    scales: np.ndarray
    shape: np.ndarray

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """y (n, m) -> log densities (n,), nats."""
        return logsumexp(self._terms(*self._squares(y)), axis=1)

    def _squares(self, y: np.ndarray) -> tuple[np.ndarray, float]:
        """y_n' S^-1 y_n for each row (n,), and log det S."""
        factor = np.linalg.cholesky(self.shape)
        z = solve_triangular(factor, y.T, lower=True)
        return (z**2).sum(axis=0), 2 * float(np.log(np.diag(factor)).sum())

    def _terms(self, q: np.ndarray, log_det: float) -> np.ndarray:
        """log w_k N(y_n; 0, t_k^2 S): (n, k)."""
        m = len(self.shape)
        constant = np.log(self.weights) - m * np.log(self.scales) - 0.5 * (log_det + m * math.log(2 * math.pi))
        return constant - 0.5 * q[:, None] / self.scales**2


def fit(
    y: np.ndarray, components: int, iterations: int, progress: Progress | None = None
) -> tuple[ScaleMixture, list[float]]:
    """The mixture after `iterations` steps, and the mean log-likelihood (nats) before each step and after the last.

    Args:
        y: (n, m) rows that span R^m.
    """
    mixture, history = _start(y, components), []
    with (progress or NoProgress()).task("texture", total=iterations, unit="step") as task:
        for _ in range(iterations):
            mixture, value = _step(mixture, y)
            history.append(value)
            task.advance(1)
    history.append(float(mixture.log_prob(y).mean()))
    return mixture, history


def _start(y: np.ndarray, components: int) -> ScaleMixture:
    """The covariance's shape, and scales at quantiles of the rows' own scales."""
    mixture = _normal(np.ones(components) / components, np.ones(components), y.T @ y / len(y))
    q, _ = mixture._squares(y)
    scales = np.sqrt(np.quantile(q, (np.arange(components) + 0.5) / components) / y.shape[1])
    # Apart by 1% at least: equal scales would stay equal for ever.
    apart = np.maximum.accumulate(scales * 1.01 ** -np.arange(components)) * 1.01 ** np.arange(components)
    return ScaleMixture(mixture.weights, apart, mixture.shape)


def _step(mixture: ScaleMixture, y: np.ndarray) -> tuple[ScaleMixture, float]:
    """One step, and the mean log-likelihood before it."""
    n, m = y.shape
    q, log_det = mixture._squares(y)
    terms = mixture._terms(q, log_det)
    log_p = logsumexp(terms, axis=1)
    r = np.exp(terms - log_p[:, None])
    mass = r.sum(axis=0)
    # A scale for which no row is left keeps its value.
    scales = np.where(mass > _NO_ROWS, np.sqrt(q @ r / (m * np.maximum(mass, _NO_ROWS))), mixture.scales)
    shape = (y * (r @ scales**-2.0)[:, None]).T @ y / n
    return _normal(np.maximum(mass / n, 1e-300), scales, shape), float(log_p.mean())


def _normal(weights: np.ndarray, scales: np.ndarray, shape: np.ndarray) -> ScaleMixture:
    """The same density with trace(S) = m and ascending scales."""
    size = np.trace(shape) / len(shape)
    order = np.argsort(scales, kind="stable")
    return ScaleMixture(weights[order], scales[order] * math.sqrt(size), (shape + shape.T) / (2 * size))
