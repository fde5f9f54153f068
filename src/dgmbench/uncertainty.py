"""Standard errors of means over test examples, whose dependence within groups (patches of one image) counts."""

import numpy as np

RESAMPLES = 2000
SEED = 20140


def group_sums(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of each group: (n,), (n,) -> (G,), (G,)."""
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index)


def bootstrap_means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means of resamples of whole groups, with a fixed seed: (G,), (G,) -> (2000,).

    A resample of G groups spreads by sqrt((G - 1) / G) of the truth, because it is drawn around the groups' own mean;
    the deviations are scaled back (Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 5.3).
    """
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)
    mean = sums.sum() / counts.sum()
    return mean + (means - mean) * np.sqrt(len(sums) / (len(sums) - 1))


def standard_error(values: np.ndarray, groups: np.ndarray | None) -> tuple[float | None, int | None]:
    """Standard error of the mean over test examples, and the number of groups.

    Without groups sd / sqrt(n); with groups the standard deviation of `bootstrap_means`. One example or one group
    says nothing of the spread: the standard error is then None.
    """
    if groups is None:
        return (float(values.std(ddof=1) / np.sqrt(len(values))), None) if len(values) > 1 else (None, None)
    sums, counts = group_sums(values, groups)
    if len(sums) < 2:
        return None, len(sums)
    return float(bootstrap_means(sums, counts).std(ddof=1)), len(sums)
