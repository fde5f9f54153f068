"""The exceptions that cross a stage's border; each knows what it means for the table."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Input that a person must change: one sentence saying what was wrong and what to write instead.

    The command line prints the message alone and exits with status 2, before any work starts.
    """


class CannotBeDone(Exception):
    """A request that a model, an estimator or this machine refuses; the reason becomes the cell's status."""


class Diverged(Exception):
    """A loss that is no longer finite: the run stops at that step and the table says so."""

    def __init__(self, step: int, values: dict[str, float], last_finite: dict[str, float]):
        self.step, self.values, self.last_finite = step, values, last_finite
        now = ", ".join(f"{name} = {value}" for name, value in values.items())
        before = ", ".join(f"{name} = {value:.6g}" for name, value in last_finite.items()) or "none"
        super().__init__(f"diverged at step {step}: {now}; last finite values: {before}")


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'rbm'?` where a known name is close, else the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.55)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known) or 'none'}."
