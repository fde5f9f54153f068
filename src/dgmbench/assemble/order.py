"""Whether rows come in the published order: Spearman's rank correlation between what was obtained and published.

    rho = correlation of the ranks of the n rows' numbers, ties at their mean rank;    1: the published order

Its uncertainty is that of the numbers obtained: each is moved by normal noise, of the larger of its estimator's
standard error and its standard deviation over seeds, 1,000 times with a fixed seed; the standard error is the standard
deviation of rho over these. That over test examples is left out: all rows are scored on the same ones, and move alike.

Reference: Spearman, "The proof and measurement of association between two things", American Journal of Psychology 15,
1904.
"""

from collections.abc import Iterable

import numpy as np

from dgmbench.assemble.entries import Entry
from dgmbench.assemble.ledger import COLUMNS, Record
from dgmbench.assemble.outcomes import DONE, PENDING
from dgmbench.assemble.verdict import NOT_PUBLISHED
from dgmbench.schemas import OrderPlan

METRIC = "rank_correlation"
FEWEST = 3  # rows, of which two would always be in one order or the other
_DRAWS = 1000


def order_records(entries: Iterable[Entry], orders: Iterable[OrderPlan]) -> list[Record]:
    """One row of the ledger for each order and dataset; a row that is not complete says what is missing."""
    entries = list(entries)
    found = []
    for order in orders:
        chosen = [entry for entry in entries if _belongs(entry, order)]
        for dataset in dict.fromkeys(entry.dataset for entry in chosen):
            found.append(_record(order, [entry for entry in chosen if entry.dataset == dataset]))
    return found


def _belongs(entry: Entry, order: OrderPlan) -> bool:
    parameters = entry.parameters.items()
    return (
        entry.row_name in order.rows
        and entry.evaluation_name == order.evaluation
        and entry.metric == order.metric
        and all(item in parameters for item in order.where.items())
        and entry.published is not None
    )


def _record(order: OrderPlan, entries: list[Entry]) -> Record:
    absent = [entry.row for entry in entries if entry.combined.obtained is None]
    other = [entry.row for entry in entries if entry.published.kind != entry.kind]
    record = dict.fromkeys(COLUMNS) | {
        **{k: getattr(entries[0], k) for k in ("experiment", "dataset", "column")},
        **{"row": order.title, "metric": METRIC, "unit": "ratio", "kind": "score", "model": "", "variant": ""},
        **{"status": PENDING, "verdict": NOT_PUBLISHED, "reason": "", "control": False, "n_seeds": 0},
        "run_ids": " ".join(dict.fromkeys(outcome.run for entry in entries for outcome in entry.outcomes)),
        "protocol": f"Spearman, over {len(entries)} rows; standard error by the noise of what was obtained",
        **{"published_kind": "", "published_source": "", "published_protocol": ""},
    }
    if absent:
        return record | {"reason": f"{len(absent)} of {len(entries)} rows have no number yet: {', '.join(absent)}"}
    if other:
        return record | {"reason": f"published as another kind of number: {', '.join(other)}"}
    if len(entries) < FEWEST:
        return record | {"reason": f"{len(entries)} rows have a published number, and an order needs {FEWEST}"}
    rho, se = rank_correlation(
        [entry.combined.obtained for entry in entries],
        [_uncertainty(entry) for entry in entries],
        [entry.published.value for entry in entries],
    )
    seeds = min(len(entry.combined.done) for entry in entries)
    return record | {"obtained": rho, "estimator_se": se, "status": DONE, "n_seeds": seeds}


def rank_correlation(obtained: list[float], uncertainties: list[float], published: list[float]) -> tuple[float, float]:
    """Spearman's rho and its standard error, see the module's docstring; all (n,)."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((_DRAWS, len(obtained))) * np.asarray(uncertainties)
    theirs = _ranks(np.asarray(published, dtype=np.float64))
    moved = [_correlation(_ranks(row), theirs) for row in np.asarray(obtained) + noise]
    return _correlation(_ranks(np.asarray(obtained, dtype=np.float64)), theirs), float(np.std(moved, ddof=1))


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(values)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of ranks; 0 where one side is all ties, and so in no order."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def _uncertainty(entry: Entry) -> float:
    known = (entry.combined.seed_sd, entry.combined.estimator_se)
    return max((value for value in known if value is not None), default=0.0)
