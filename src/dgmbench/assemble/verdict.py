"""Published against obtained, in a word. Numbers of different kinds or protocols are never compared in silence."""

from dgmbench.assemble.published import Published

REPRODUCED, BETTER, WORSE = "reproduced", "better", "worse"
PROTOCOL_DIFFERS, PENDING, FAILED, NOT_PUBLISHED = "protocol differs", "pending", "failed", "not published"
VERDICTS = (REPRODUCED, BETTER, WORSE, PROTOCOL_DIFFERS, PENDING, FAILED, NOT_PUBLISHED)


def verdict(
    obtained: float | None,
    kind: str,
    better: str,
    status: str,
    published: Published | None,
    differs: str | None,
) -> tuple[str, str]:
    """The verdict of a cell and the reason that it needs, or ''.

    `reproduced` is |obtained - published| <= tolerance. Beyond it the metric's direction decides; where neither
    direction is better, a difference beyond tolerance is `worse`. A number that is unconverged, or of which seeds are
    missing, waits for its verdict: an estimator that has not converged may flatter the model.
    """
    if obtained is None:
        return (PENDING, "") if status == "pending" else (FAILED, "")
    if published is None:
        return NOT_PUBLISHED, ""
    reasons = []
    if kind != published.kind:
        reasons.append(f"ours is of the kind {kind}, the published number of the kind {published.kind}")
    if differs:
        reasons.append(differs)
    if reasons:
        return PROTOCOL_DIFFERS, "; ".join(reasons)
    if status != "done":
        return PENDING, f"no verdict while the number is {status}"
    difference = obtained - published.value
    # A difference that equals the tolerance as printed may miss it by a rounding error.
    if abs(difference) <= published.tolerance * (1 + 1e-9):
        return REPRODUCED, ""
    if better == "neither":
        return WORSE, "neither direction is better, and the difference is beyond tolerance"
    return (BETTER if (difference > 0) == (better == "higher") else WORSE), ""
