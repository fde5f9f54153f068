"""k-means by scikit-learn, with bits that depend on the seed alone."""

from typing import Literal

import numpy as np
import torch

Start = Literal["kmeans++", "random"]


def draw_seed(generator: torch.Generator) -> int:
    """A seed for libraries that do not take a torch generator."""
    return int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))


def kmeans(
    x: np.ndarray, clusters: int, iterations: int, seed: int, start: Start = "kmeans++", batch: int | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Lloyd's algorithm (minibatches where `batch` is given): centroids (k, d), labels (n,), mean squared distance."""
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    options = {
        "n_clusters": clusters,
        "init": "k-means++" if start == "kmeans++" else "random",
        "n_init": 1,
        "max_iter": iterations,
        "random_state": seed,
        "tol": 0.0,
    }
    algorithm = KMeans(**options) if batch is None else MiniBatchKMeans(**options, batch_size=batch)
    # Several OpenMP threads add up the centroids in the order in which they finish: other bits at every run.
    with threadpool_limits(1, user_api="openmp"):
        fitted = algorithm.fit(x)
    return fitted.cluster_centers_, fitted.labels_.astype(np.int64), float(fitted.inertia_) / len(x)
