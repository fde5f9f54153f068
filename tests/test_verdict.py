"""Verdicts on one number beside the published one, and the statuses and uncertainties of several seeds."""

import numpy as np
import pytest

from dgmbench.assemble.outcomes import Combined, Outcome
from dgmbench.assemble.published import Published
from dgmbench.assemble.verdict import verdict

PRINTED = Published(10.0, None, "exact", 0.5, "as printed", "a file")


@pytest.mark.parametrize(
    ("obtained", "better", "expected"),
    [
        (10.4, "higher", "reproduced"),
        (10.5, "higher", "reproduced"),
        (9.5, "lower", "reproduced"),
        (10.6, "higher", "better"),
        (9.4, "higher", "worse"),
        (9.4, "lower", "better"),
        (10.6, "lower", "worse"),
        (10.6, "neither", "worse"),
        (9.4, "neither", "worse"),
    ],
)
def test_verdict_follows_tolerance_and_direction(obtained, better, expected):
    assert verdict(obtained, "exact", better, "done", PRINTED, None)[0] == expected


def test_verdict_never_compares_kinds_or_protocols_in_silence():
    word, reason = verdict(10.0, "parzen", "higher", "done", PRINTED, None)
    assert word == "protocol differs"
    assert "parzen" in reason
    assert "exact" in reason
    assert verdict(10.0, "exact", "higher", "done", PRINTED, "other data") == ("protocol differs", "other data")


def test_verdict_without_a_number():
    assert verdict(None, "exact", "higher", "pending", PRINTED, "other data")[0] == "pending"
    assert verdict(None, "exact", "higher", "failed", PRINTED, None)[0] == "failed"
    assert verdict(None, "exact", "higher", "refused", None, None)[0] == "failed"
    assert verdict(1.0, "exact", "higher", "done", None, "other data")[0] == "not published"


def done(value, test_se=0.3, estimator_se=0.0, converged=None):
    number = {"value": value, "test_se": test_se, "estimator_se": estimator_se, "converged": converged}
    return Outcome("run", "evaluation", "done", number=number)


def test_three_uncertainties_are_combined_apart():
    combined = Combined((done(1.0, 0.3, 0.3), done(2.0, 0.5, 0.4), done(4.0, 0.1, 0.0)))
    assert combined.obtained == pytest.approx(7 / 3)
    assert combined.test_se == pytest.approx(0.3)
    assert combined.estimator_se == pytest.approx(0.5 / 3)
    assert combined.seed_sd == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert combined.status == "done"


def test_one_seed_has_no_spread_over_seeds():
    assert Combined((done(1.0),)).seed_sd is None


def test_statuses_of_several_seeds():
    failed = Outcome("r", "e", "failed", "diverged at step 3")
    refused = Outcome("r", "e", "refused", "no density")
    pending = Outcome("r", "e", "pending", "not trained")
    partial = Combined((done(1.0), failed))
    assert (partial.status, partial.obtained) == ("partial", 1.0)
    assert partial.reason == "1 of 2 seeds; diverged at step 3"
    assert Combined((failed, pending)).status == "failed"
    assert "seed 1 pending: not trained" in Combined((failed, pending)).reason
    assert Combined((refused, refused)).status == "refused"
    assert Combined((pending, pending)).status == "pending"
    assert Combined((done(1.0, converged=True), done(1.0, converged=True))).converged is True
    unconverged = Combined((done(1.0, converged=True), done(1.0, converged=False)))
    assert (unconverged.status, unconverged.converged) == ("unconverged", False)
    assert "seed 1" in unconverged.reason
