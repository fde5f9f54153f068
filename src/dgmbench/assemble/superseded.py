"""Numbers that stand in a table and that the benchmark, as it is now, would make in another way.

A table keeps what it was made of until it is made anew. Where one of a cell's evaluations, or the run that it is of, is
none that the experiment asks for now, the cell is superseded: its number stands, with a status that says so and with
the commit that made it. Seeds and devices do not count: those are chosen for a machine.
"""

from collections.abc import Iterable
from typing import Any

from dgmbench.assemble.outcomes import PENDING
from dgmbench.assemble.provenance import used_by
from dgmbench.files import canonical_json
from dgmbench.runs import MEANING, Evaluation, Plan

SUPERSEDED = "superseded"
_EVALUATION = ("estimator", "settings", "code")


def superseded_cells(shown: dict[str, Any], experiment: str, plan: Plan) -> dict[str, list[str]]:
    """Key of each superseded cell ("row | column | metric") of a provenance, or part of it -> commits that made it."""
    asked = set()
    for identity in plan.evaluations_of(experiment):
        evaluation = plan.evaluations[identity]
        asked.add(_meaning(vars(plan.runs[evaluation.run]), vars(evaluation)))
    old = {}
    for identity, record in shown["evaluations"].items():
        evaluation = record["evaluation"]
        # The identity also says which rows of a split are scored.
        changed = Evaluation(**evaluation).id != identity
        if changed or _meaning(shown["runs"][evaluation["run"]]["run"], evaluation) not in asked:
            old[identity] = ((record.get("measured") or {}).get("commit") or "unknown")[:12]
    found = {}
    for key, cell in shown["cells"].items():
        commits = sorted({old[e] for e in used_by(cell)[1] if e in old})
        if commits and cell["status"] != PENDING:
            found[key] = commits
    return found


def since(commits: Iterable[str]) -> str:
    """`made by earlier code or settings, commit 0123456789ab`"""
    each = sorted(set(commits))
    return f"made by earlier code or settings, commit{'s' if len(each) > 1 else ''} {', '.join(each)}"


def marked(row: dict[str, Any], commits: list[str] | None) -> dict[str, Any]:
    """A table's row, or a provenance's cell, with the status that it is superseded where there are such commits."""
    if commits is None:
        return row
    return row | {"status": SUPERSEDED, "reason": "; ".join(part for part in (since(commits), row["reason"]) if part)}


def note(old: dict[str, list[str]], cells: int) -> str:
    """One sentence about all superseded cells of a table, or ''."""
    commits = [commit for each in old.values() for commit in each]
    return f"{len(old)} of {cells} cells were {since(commits)}" if old else ""


def _meaning(run: dict[str, Any], evaluation: dict[str, Any]) -> str:
    return canonical_json([{n: run[n] for n in MEANING}, {n: evaluation[n] for n in _EVALUATION}])
