"""Rank correlations with the published order: closed forms, noise, and what is said of rows that are not there."""

import math
from dataclasses import replace

import pytest
from scipy.stats import spearmanr

from dgmbench.assemble import ledger
from dgmbench.assemble.entries import Entry
from dgmbench.assemble.order import order_cells, order_records, rank_correlation
from dgmbench.assemble.outcomes import DONE, Outcome
from dgmbench.assemble.provenance import describe, find
from dgmbench.assemble.published import Published
from dgmbench.assemble.tables import row_labels
from dgmbench.config import checked, load_experiments
from dgmbench.errors import UserError
from dgmbench.files import write_json
from dgmbench.schemas import OrderPlan

ORDER = OrderPlan(title="three methods, K = 1", evaluation="bound", rows=["a", "b", "c"], where={"k": 1})


def entry(
    row: str, value: float | None, published: float, k: int = 1, kind: str = "estimate", se: float = 0.0, **changes
) -> Entry:
    words = {"estimator": "e", "unit": "nats", "kind": "estimate", "better": "higher", "description": ""}
    number = {"value": value, "estimator_se": se, "test_se": 5.0, "converged": changes.pop("converged", None)}
    outcome = Outcome("r" + row, "e", DONE if value is not None else "pending", "", number if value is not None else {})
    return Entry(
        experiment="x", row=f"{row} k={k}", row_name=row, label=row, evaluation_name="bound",
        metric="log_likelihood", dataset=changes.pop("dataset", "d"),
        column=changes.pop("column", "bound"), model="m", variant="", parameters={"k": k},
        settings=changes.pop("settings", {}), control=False, protocol="", outcomes=(outcome,),
        published=Published(published, None, kind, 1.0, "", ""), **words, **changes,
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
    assert record["estimator_se"] is None
    assert record["protocol"].endswith("no standard error of one seed")
    (record,) = order_records([replace(each, outcomes=each.outcomes * 2) for each in entries], [ORDER])
    assert record["estimator_se"] == 0


def test_an_incomplete_order_says_what_is_missing():
    good = [entry("a", -3, -30), entry("b", -2, -20)]
    for rows, status, said in (
        ([*good, entry("c", None, -10)], "pending", "1 of 3 rows have no number yet: c k=1"),
        (good, "refused", "not computed: this budget has 2 rows with a published number, and an order needs 3"),
        ([*good, entry("c", -1, -10, kind="exact")], "refused", "another kind of number: c k=1"),
    ):
        (record,) = order_records(rows, [ORDER])
        assert record["obtained"] is None
        assert record["status"] == status
        assert said in record["reason"]


def test_an_order_says_what_its_rows_say():
    rows = [
        entry("a", -3, -30, differs="other data"),
        entry("b", -2, -20, converged=False),
        entry("c", -1, -10, converged=True),
    ]
    (record,) = order_records(rows, [ORDER])
    assert (record["obtained"], record["status"], record["verdict"]) == (1, "unconverged", "protocol differs")
    assert record["converged"] is False
    assert record["reason"] == "protocol differs: a k=1 (other data); b k=1 is unconverged"


def test_an_order_can_be_opened(tmp_path):
    rows = [entry("a", -3, -30), entry("b", -2, -20), entry("c", -1, -25)]
    (record,), cells = order_records(rows, [ORDER]), order_cells(rows, [ORDER])
    assert list(cells) == [ledger.key(record)]
    runs = {i.run: {"run": {"dataset_key": "d-1"}} for e in rows for i in e.outcomes}
    whole = {"experiment": "x", "budget": "demo", "title": "T", "cells": cells, "runs": runs}
    whole |= {"evaluations": {"e": {}}, "datasets": {"d-1": None}}
    write_json(tmp_path / "demo" / "provenance" / "x.json", whole)
    found = find(tmp_path, "demo", "x", ORDER.title, "bound")
    assert row_labels(cells.values()) == {ORDER.title: f"{ORDER.title} (3 rows)"}
    assert set(found["runs"]) == set(runs)
    said = describe(found | {"runs": {}, "evaluations": {}})
    assert "of b k=1: −2, published -20 (" in said
    assert "0.5" in said
    with pytest.raises(UserError, match="under the budget demo, not under 'laptop': add --budget demo"):
        find(tmp_path, "laptop", "x", ORDER.title, "bound")
    with pytest.raises(UserError, match="no experiment 'y' has been assembled"):
        find(tmp_path, "demo", "y", ORDER.title, "bound")


def test_orders_of_several_datasets_have_rows_of_their_own():
    rows = [entry(name, -1.0, -1.0, dataset=dataset) for dataset in ("d", "f") for name in ("a", "b", "c")]
    assert [r["row"] for r in order_records(rows, [ORDER])] == [f"{ORDER.title}, d", f"{ORDER.title}, f"]


def test_columns_of_a_grid_have_orders_of_their_own():
    def rows(names):
        return [
            entry(name, value * sign, published, column=f"bound samples={count}", settings={"samples": count})
            for count, sign in ((100, 1), (1000, -1))
            for name, value, published in zip(names, (-3, -2, -1), (-30, -20, -10))
        ]

    records, cells = order_records(rows("abc"), [ORDER]), order_cells(rows("abc"), [ORDER])
    assert [(r["row"], r["column"], r["obtained"]) for r in records] == [
        (f"{ORDER.title}, bound samples={count}", f"bound samples={count}", pytest.approx(rho))
        for count, rho in ((100, 1), (1000, -1))
    ]
    assert list(cells) == [ledger.key(record) for record in records]
    assert all("over 3 rows" in record["protocol"] for record in records)
    both = [replace(e, dataset=dataset) for dataset in ("d", "f") for e in rows("abc")]
    assert order_records(both, [ORDER])[1]["row"] == f"{ORDER.title}, d, bound samples=1000"
    few = order_records(rows("ab"), [ORDER])
    assert ["budget has 2 rows with" in record["reason"] for record in few] == [True, True]


def test_a_selection_that_has_not_chosen_may_have_no_published_number_yet():
    waiting = replace(entry("c", None, -10), published=None, outcomes=())
    rows = [entry("a", -3, -30), entry("b", -2, -20), waiting]
    (record,), (cell,) = order_records(rows, [ORDER]), order_cells(rows, [ORDER]).values()
    assert (record["status"], record["reason"]) == ("pending", "1 of 3 rows have no number yet: c k=1")
    assert [made["row"] for made in cell["inputs"]] == ["a k=1", "b k=1"]


def test_an_order_of_unknown_rows_is_refused():
    experiment = load_experiments()["dvae-table1"]
    document = experiment.model_dump(exclude_unset=True)
    document["orders"] = [{"title": "t", "evaluation": "bound", "rows": ["dvae-1-liner"]}]
    with pytest.raises(UserError, match="did you mean 'dvae-1-linear'"):
        checked(type(experiment), document, "file")
