"""Search for the best path: the numbers of coordinate ascent against an enumeration of all paths."""

import itertools

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import path_search
from dgmbench.estimators.base import Workbench
from dgmbench.models.base import Density

SIZES = (4, 3, 2)
N = 60
# l(x_i, p) without structure: coordinate ascent ends in local optima often enough to be seen.
TABLE = np.random.default_rng(12).normal(size=(N, *SIZES)) * 3 - 10


class Table(Density):
    """A layered model whose l(x, p) is a table; x is the number of its row."""

    def log_prob(self, x):
        return torch.from_numpy(TABLE[x[:, 0].long().numpy()].reshape(len(x), -1)).logsumexp(1)

    def best_paths(self, x):
        scores = torch.from_numpy(TABLE[x[:, 0].long().numpy()].reshape(len(x), -1))
        best = scores.max(1)
        return best.values, best.indices

    def search_paths(self, x, passes, repeats, generator):
        starts = torch.randint(int(np.prod(SIZES)), (repeats, len(x)), generator=generator).numpy()
        scores, paths = np.full(len(x), -np.inf), np.zeros(len(x), dtype=np.int64)
        for r, (i, row) in itertools.product(range(repeats), enumerate(x[:, 0].long().tolist())):
            score, path = ascend(row, starts[r, i], passes)
            if score > scores[i]:
                scores[i], paths[i] = score, path
        return torch.from_numpy(scores), torch.from_numpy(paths), repeats * passes * sum(SIZES)


def ascend(row: int, start: int, passes: int) -> tuple[float, int]:
    """Coordinate ascent on one example from one path: its score and the number of the path reached."""
    path = list(np.unravel_index(start, SIZES))
    for _ in range(passes):
        for layer in range(len(SIZES)):
            candidates = [(*path[:layer], i, *path[layer + 1 :]) for i in range(SIZES[layer])]
            path = list(max(candidates, key=lambda p: TABLE[(row, *p)]))
    return TABLE[(row, *path)], int(np.ravel_multi_index(path, SIZES))


@pytest.fixture(scope="module")
def data() -> Dataset:
    x = np.arange(N, dtype=np.float32)[:, None]
    return Dataset("rows", "rows-1", "real", (1,), {"test": Split(x)}, {})


def run(data, seed=4, model=None, **settings):
    bench = Workbench(torch.Generator().manual_seed(seed))
    found = path_search.estimate(model or Table(), data, path_search.Settings(**settings), bench)
    return {number.metric: number for number in found.numbers}


def expectation(passes: int) -> tuple[np.ndarray, np.ndarray]:
    """Over all starts, exactly: the mean score reached by each example, and how often it is the best path."""
    flat = TABLE.reshape(N, -1)
    reached = [[ascend(row, start, passes) for start in range(flat.shape[1])] for row in range(N)]
    scores = np.array([[score for score, _ in row] for row in reached])
    paths = np.array([[path for _, path in row] for row in reached])
    return scores.mean(1), (paths == flat.argmax(1)[:, None]).mean(1)


def test_the_full_search_is_the_enumeration(data):
    full = run(data)["full_search_log_likelihood"]
    np.testing.assert_array_equal(full.per_example, TABLE.reshape(N, -1).max(1))
    assert full.estimator_se == 0


@pytest.mark.parametrize("passes", [1, 3])
def test_means_over_random_starts_are_those_of_all_starts(data, passes):
    found = run(data, passes=passes, draws=400)
    scores, share = expectation(passes)
    for metric, expected in (
        ("best_path_log_likelihood", scores.mean()),
        ("regret", (TABLE.reshape(N, -1).max(1) - scores).mean()),
        ("agreement", share.mean()),
    ):
        number = found[metric]
        assert 0 < number.estimator_se < 0.02
        assert abs(number.value - expected) < 5 * number.estimator_se
    assert found["regret"].value > 0.05, "a search without local optima would show nothing"
    assert found["agreement"].value < 0.98


def test_the_standard_error_is_the_spread_of_repeated_estimates(data):
    repeated = [run(data, seed=seed, passes=1) for seed in range(150)]
    for metric in ("best_path_log_likelihood", "regret", "agreement"):
        spread = np.std([found[metric].value for found in repeated], ddof=1)
        stated = np.sqrt(np.mean([found[metric].estimator_se ** 2 for found in repeated]))
        assert stated == pytest.approx(spread, rel=0.25)


def test_enough_repeats_find_the_best_path_of_every_example(data):
    found = run(data, passes=3, repeats=150)
    assert found["agreement"].value == 1
    assert found["regret"].value == 0
    assert found["path_evaluations"].value == 150 * 3 * 9


def test_more_passes_and_repeats_never_lower_the_mean(data):
    means = [run(data, passes=passes, draws=60)["best_path_log_likelihood"].value for passes in (1, 2, 3)]
    assert means == sorted(means)
    means = [run(data, repeats=repeats, draws=60)["best_path_log_likelihood"].value for repeats in (1, 4, 8)]
    assert means == sorted(means)


def test_examples_are_obeyed_and_equal_seeds_give_equal_numbers(data):
    first, again = (run(data, examples=11) for _ in range(2))
    for metric, number in first.items():
        assert number.value == again[metric].value
        assert number.per_example is None or len(number.per_example) == 11


def test_every_metric_is_declared_and_bounds_are_lower_bounds(data):
    found = run(data)
    assert found.keys() == path_search.METRICS.keys()
    log_prob = Table().log_prob(data.splits["test"].all()).mean()
    assert found["best_path_log_likelihood"].value <= found["full_search_log_likelihood"].value < log_prob


def test_models_without_paths_and_infinite_scores_are_refused(data):
    class Plain(Density):
        def log_prob(self, x):
            return x[:, 0]

    with pytest.raises(CannotBeDone, match="no paths to search"):
        run(data, model=Plain())

    class Impossible(Table):
        def best_paths(self, x):
            scores, paths = super().best_paths(x)
            return scores.where(x[:, 0] > 1, -torch.inf), paths

    with pytest.raises(CannotBeDone, match="the full search finds no path of finite density for 2 test examples"):
        run(data, model=Impossible())
