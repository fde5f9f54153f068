"""Whether rows come in the published order: Spearman's rank correlation between what was obtained and published.

    rho = correlation of the ranks of the n rows' numbers, ties at their mean rank;    1: the published order

Its uncertainty is that of the numbers obtained: each is moved by normal noise, of the larger of its estimator's
standard error and its standard deviation over seeds, 1,000 times with a fixed seed; the standard error is the standard
deviation of rho over these. That over test examples is left out: all rows are scored on the same ones, and move alike.
Where a row is one training, its spread over seeds is not known, nor is then the standard error of the order.

An order is no better than its rows: it is unconverged or partial where one of them is, and its protocol differs where
that of one of them does.

Reference: Spearman, "The proof and measurement of association between two things", American Journal of Psychology 15,
1904.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from dgmbench.assemble.entries import Entry
from dgmbench.assemble.ledger import COLUMNS, Record
from dgmbench.assemble.outcomes import DONE, FAILED, PENDING, REFUSED
from dgmbench.assemble.verdict import NOT_PUBLISHED, PROTOCOL_DIFFERS
from dgmbench.schemas import OrderPlan

METRIC = "rank_correlation"
FEWEST = 3  # rows, of which two would always be in one order or the other
MEANING = "Spearman's rank correlation of the numbers obtained with the published ones; 1 is the published order"
_DRAWS = 1000


def order_records(entries: Iterable[Entry], orders: Iterable[OrderPlan]) -> list[Record]:
    """One row of the ledger for each order, dataset and column; a row that is not complete says what is missing."""
    return [_record(title, rows) for title, rows in _compared(entries, orders)]


def order_cells(entries: Iterable[Entry], orders: Iterable[OrderPlan]) -> dict[str, dict[str, Any]]:
    """The provenance of the same rows, by their keys: the numbers that each order is made of."""
    cells = {}
    for title, rows in _compared(entries, orders):
        record = _record(title, rows)
        cells[f"{record['row']} | {record['column']} | {record['metric']}"] = record | {
            # How many rows are ordered: few are soon in the published order by chance.
            **{"row_name": title, "label": f"{title} ({len(rows)} rows)", "estimator": "", "better": "higher"},
            "description": MEANING,
            **{"parameters": {}, "settings": {}, "published": None, "selected_from": [], "seeds": []},
            **{"differs": _differing(rows) or None, "bits_convention": ""},
            "inputs": [_input(entry) for entry in rows if entry.published is not None],
        }
    return cells


def _compared(entries: Iterable[Entry], orders: Iterable[OrderPlan]) -> list[tuple[str, list[Entry]]]:
    """Each order's title and entries, of one dataset and column at a time; the title names those that are several."""
    entries = list(entries)
    found = []
    for order in orders:
        groups: dict[tuple[str, str], list[Entry]] = {}
        for entry in entries:
            if _belongs(entry, order):
                groups.setdefault((entry.dataset, entry.column), []).append(entry)
        several = [len(set(names)) > 1 for names in zip(*groups)]
        for names, rows in groups.items():
            found.append((", ".join([order.title, *(n for n, said in zip(names, several) if said)]), rows))
    return found


def _input(entry: Entry) -> dict[str, Any]:
    return {
        **{k: getattr(entry, k) for k in ("row", "column", "metric", "status", "verdict")},
        **{"obtained": entry.combined.obtained, "uncertainty": _uncertainty(entry)},
        "published": entry.published.value,
        "runs": [outcome.run for outcome in entry.outcomes],
        "evaluations": [outcome.evaluation for outcome in entry.outcomes],
    }


def _belongs(entry: Entry, order: OrderPlan) -> bool:
    parameters = entry.parameters.items()
    return (
        entry.row_name in order.rows
        and entry.evaluation_name == order.evaluation
        and entry.metric == order.metric
        and all(item in parameters for item in order.where.items())
    )


def _record(title: str, entries: list[Entry]) -> Record:
    record = dict.fromkeys(COLUMNS) | {
        **{k: getattr(entries[0], k) for k in ("experiment", "dataset", "column")},
        **{"row": title, "metric": METRIC, "unit": "ratio", "kind": "score", "model": "", "variant": ""},
        **{"verdict": NOT_PUBLISHED, "reason": "", "control": False, "n_seeds": 0},
        "run_ids": " ".join(dict.fromkeys(outcome.run for entry in entries for outcome in entry.outcomes)),
        "protocol": f"Spearman, over {len(entries)} rows",
        **{"published_kind": "", "published_source": "", "published_protocol": ""},
    }
    if lacking := _lacking(entries):
        status, reason = lacking
        return record | {"status": status, "reason": reason}
    rho, se = rank_correlation(
        [entry.combined.obtained for entry in entries],
        [_uncertainty(entry) for entry in entries],
        [entry.published.value for entry in entries],
    )
    seeds = min(len(entry.combined.done) for entry in entries)
    converged = [entry.combined.converged for entry in entries if entry.combined.converged is not None]
    differing, unsettled = _differing(entries), [entry for entry in entries if entry.status != DONE]
    reasons = [f"protocol differs: {differing}"] if differing else []
    reasons += [f"{entry.row} is {entry.status}" for entry in unsettled]
    of_error = "standard error by the noise of what was obtained" if seeds > 1 else "no standard error of one seed"
    return record | {
        **{"obtained": rho, "estimator_se": se if seeds > 1 else None, "n_seeds": seeds},
        "protocol": f"{record['protocol']}; {of_error}",
        "status": unsettled[0].status if unsettled else DONE,
        "verdict": PROTOCOL_DIFFERS if differing else NOT_PUBLISHED,
        "reason": "; ".join(reasons),
        "converged": all(converged) if converged else None,
    }


def _lacking(entries: list[Entry]) -> tuple[str, str] | None:
    """Why there is no order, with its status: what can never come at this budget is refused, and does not wait."""
    if len(entries) < FEWEST:
        rows = f"{len(entries)} row{'s' if len(entries) > 1 else ''}"
        return REFUSED, f"not computed: this budget has {rows} with a published number, and an order needs {FEWEST}"
    other = [entry.row for entry in entries if entry.published is not None and entry.published.kind != entry.kind]
    if other:
        return REFUSED, f"not computed: published as another kind of number: {', '.join(other)}"
    absent = [entry for entry in entries if entry.combined.obtained is None]
    if not absent:
        return None
    status = PENDING if any(entry.status == PENDING for entry in absent) else FAILED
    rows = ", ".join(entry.row for entry in absent)
    return status, f"{len(absent)} of {len(entries)} rows have no number{' yet' if status == PENDING else ''}: {rows}"


def _differing(entries: list[Entry]) -> str:
    """The rows whose protocol is not the published one, with what they say of it."""
    by_reason: dict[str, list[str]] = {}
    for entry in entries:
        if entry.verdict == PROTOCOL_DIFFERS:
            by_reason.setdefault(entry.differs or entry.reason, []).append(entry.row)
    return "; ".join(f"{', '.join(rows)} ({reason})" for reason, rows in by_reason.items())


def rank_correlation(obtained: list[float], uncertainties: list[float], published: list[float]) -> tuple[float, float]:
    """Spearman's rho and its standard error, see the module's docstring; all (n,). 0 where one side is all ties, and
    so in no order."""
    from scipy.stats import ConstantInputWarning, rankdata, spearmanr

    ours = np.asarray(obtained, dtype=np.float64)
    noise = np.random.default_rng(0).standard_normal((_DRAWS, len(ours))) * np.asarray(uncertainties)
    # Many draws come in few orders: rho once for each of these.
    orders, which = np.unique(rankdata([ours, *(ours + noise)], axis=1), axis=0, return_inverse=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        rho = np.nan_to_num([spearmanr(order, published).statistic for order in orders])[which.ravel()]
    return float(rho[0]), float(np.std(rho[1:], ddof=1))


def _uncertainty(entry: Entry) -> float:
    known = (entry.combined.seed_sd, entry.combined.estimator_se)
    return max((value for value in known if value is not None), default=0.0)
