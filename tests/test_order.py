"""Rank correlations with the published order: closed forms, noise, and what is said of rows that are not there."""

import math

import pytest
from scipy.stats import spearmanr

from dgmbench.assemble.entries import Entry
from dgmbench.assemble.order import order_records, rank_correlation
from dgmbench.assemble.outcomes import DONE, Outcome
from dgmbench.assemble.published import Published
from dgmbench.config import checked, load_experiments
from dgmbench.errors import UserError
from dgmbench.schemas import OrderPlan

ORDER = OrderPlan(title="three methods, K = 1", evaluation="bound", rows=["a", "b", "c"], where={"k": 1})


def entry(
    row: str, value: float | None, published: float, k: int = 1, kind: str = "estimate", se: float = 0.0
) -> Entry:
    words = {"estimator": "e", "unit": "nats", "kind": "estimate", "better": "higher", "description": ""}
    number = {"value": value, "estimator_se": se, "test_se": 5.0}
    outcome = Outcome("r" + row, "e", DONE if value is not None else "pending", "", number if value is not None else {})
    return Entry(
        experiment="x", row=f"{row} k={k}", row_name=row, label=row, column="bound", evaluation_name="bound",
        metric="log_likelihood", dataset="d", model="m", variant="", parameters={"k": k}, settings={}, control=False,
        protocol="", outcomes=(outcome,), published=Published(published, None, kind, 1.0, "", ""), **words,
    )  # fmt: skip


def test_rank_correlation_is_the_one_of_scipy_with_ties():
    ours, theirs = [3.0, 1.0, 2.0, 5.0, 5.0], [10.0, 30.0, 20.0, 20.0, 50.0]
    rho, se = rank_correlation(ours, [0.0] * 5, theirs)
    assert rho == pytest.approx(spearmanr(ours, theirs).statistic)
    assert se < 1e-12


def test_noise_that_drowns_the_order_leaves_the_spread_of_random_ranks():
    # rho of n random ranks has variance 1 / (n - 1); 1,000 draws know its root to 2.2 %: 12 % is 5 such errors.
    rho, se = rank_correlation([float(i) for i in range(9)], [1e6] * 9, [float(i) for i in range(9)])
    assert rho == 1
    assert se == pytest.approx(math.sqrt(1 / 8), rel=0.12)
    assert rank_correlation([1.0, 1.0, 1.0], [0.0] * 3, [1.0, 2.0, 3.0])[0] == 0


def test_only_rows_of_the_order_count():
    entries = [entry("a", -3, -30), entry("b", -2, -20), entry("c", -1, -25), entry("d", 9, -99), entry("a", 9, -99, 5)]
    (record,) = order_records(entries, [ORDER])
    assert record["obtained"] == pytest.approx(0.5)
    assert (record["row"], record["column"], record["metric"]) == (ORDER.title, "bound", "rank_correlation")
    assert (record["unit"], record["kind"], record["status"], record["n_seeds"]) == ("ratio", "score", "done", 1)
    assert record["run_ids"] == "ra rb rc"
    assert record["estimator_se"] == 0


def test_an_incomplete_order_says_what_is_missing():
    good = [entry("a", -3, -30), entry("b", -2, -20)]
    for rows, said in (
        ([*good, entry("c", None, -10)], "1 of 3 rows have no number yet: c k=1"),
        (good, "2 rows have a published number"),
        ([*good, entry("c", -1, -10, kind="exact")], "another kind of number: c k=1"),
    ):
        (record,) = order_records(rows, [ORDER])
        assert record["obtained"] is None
        assert record["status"] == "pending"
        assert said in record["reason"]


def test_an_order_of_unknown_rows_is_refused():
    experiment = load_experiments()["dvae-table1"]
    document = experiment.model_dump(exclude_unset=True)
    document["orders"] = [{"title": "t", "evaluation": "bound", "rows": ["dvae-1-liner"]}]
    with pytest.raises(UserError, match="did you mean 'dvae-1-linear'"):
        checked(type(experiment), document, "file")
