"""The best path through a layered mixture: coordinate ascent from random paths against the full search.

    l(x, p)      = log pi_p + log N(x; path p)                      <= log p(x), nats
    full search  = (1/n) sum_i max_p l(x_i, p)                      prod_j N_j path evaluations for each example
    best path    = (1/n) sum_i max_{r = 1..repeats} l(x_i, p_r(x_i)),    p_r reached by `passes` passes of
                   p_j <- argmax_i l(x, (p_1, ..., i, ..., p_k)), layer by layer, from a uniformly drawn path;
                   repeats * passes * sum_j N_j path evaluations for each example
    regret       = full search - best path
    agreement    = share of examples whose path found is that of the full search

Reference: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, section 3.1, "Heuristic", and figure 2.
The search is random in its starts alone. It is drawn `draws` times, independently for every example; each number is
the mean over draws, and its standard error comes from their spread within the examples.
"""

import numpy as np
import torch
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Density

REQUIRES = Density
METRICS = {
    "best_path_log_likelihood": Metric(
        "nats", "lower-bound", "higher", "mean log pi_p N(x; path p) of the best path that the ascent finds"
    ),
    "full_search_log_likelihood": Metric(
        "nats", "lower-bound", "higher", "mean log pi_p N(x; path p) of the best of all paths"
    ),
    "regret": Metric("nats", "score", "lower", "what the ascent misses: full search - best path found"),
    "agreement": Metric("share", "score", "higher", "examples whose path found is that of the full search"),
    "path_evaluations": Metric("count per example", "score", "lower", "paths scored by the ascent for each example"),
}


class Settings(EstimatorSettings):
    passes: int = Field(3, ge=1, description="Passes of coordinate ascent over the layers from each random path.")
    repeats: int = Field(1, ge=1, description="Random paths started from; the best path reached is kept.")
    draws: int = Field(2, ge=2, description="Independent searches that the numbers are means of.")


def scorings(settings: Settings, examples: int) -> float:
    """How often the model is evaluated: the full search is one evaluation, a pass is at most one more."""
    return float(examples * (1 + settings.draws * settings.repeats * settings.passes))


def estimate(model: Density, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """Both searches on the examples of a split.

    The model has `best_paths(x) -> (l (n,), paths (n,))` of the full search, and
    `search_paths(x, passes, repeats, generator) -> (l (n,), paths (n,), path evaluations for each example)`.

    Raises:
        CannotBeDone: the model has no paths to search; l(x, p) is not finite for some example.
    """
    if not (hasattr(model, "search_paths") and hasattr(model, "best_paths")):
        raise CannotBeDone(
            "this model has no paths to search: evaluate 'path_search' on a layered mixture (deep_gmm), and take it "
            "out of the other rows."
        )
    split = data.splits[settings.split]
    x = split.take(slice(0, settings.examples), bench.generator).to(bench.device)
    found, same, evaluations = np.empty((settings.draws, len(x))), np.empty((settings.draws, len(x))), 0
    with bench.progress.task("path search", total=settings.draws + 1, unit="search") as task:
        full, best = model.best_paths(x)
        full = _checked(full, "the full search", settings.split)
        task.advance()
        for draw in range(settings.draws):
            scores, paths, evaluations = model.search_paths(x, settings.passes, settings.repeats, bench.generator)
            found[draw] = _checked(scores, "the coordinate ascent", settings.split)
            same[draw] = (paths == best).double().cpu().numpy()
            task.advance()
    mean, agreement = found.mean(0), same.mean(0)
    spread, evidence = _error_of_mean(found), {"draws": settings.draws}
    return Estimates(
        [
            Estimate("best_path_log_likelihood", float(mean.mean()), mean, spread, evidence=evidence),
            Estimate("full_search_log_likelihood", float(full.mean()), full),
            Estimate("regret", float((full - mean).mean()), full - mean, spread, evidence=evidence),
            Estimate("agreement", float(agreement.mean()), agreement, _error_of_mean(same), evidence=evidence),
            Estimate("path_evaluations", float(evaluations)),
        ]
    )


def _checked(scores: torch.Tensor, search: str, split: str) -> np.ndarray:
    values = scores.detach().double().cpu().numpy()
    not_finite = int((~np.isfinite(values)).sum())
    if not_finite:
        raise CannotBeDone(f"{search} finds no path of finite density for {not_finite:,} {split} examples.")
    return values


def _error_of_mean(values: np.ndarray) -> float:
    """Standard error of the mean of (draws, n) values over draws that are independent for every example."""
    draws, n = values.shape
    return float(np.sqrt((values.var(0, ddof=1) / draws).sum()) / n)
