"""What one seed of one cell came to: read from a run's manifest and an evaluation's file, never guessed."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dgmbench.files import read_json

DONE, FAILED, REFUSED, PENDING = "done", "failed", "refused", "pending"


@dataclass(frozen=True)
class Outcome:
    """One metric of one evaluation of one run: a number, or why there is none."""

    run: str
    evaluation: str
    status: str
    reason: str = ""
    number: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        return self.number.get("value")


class NotHere(str):
    """Why something that an evaluation wrote cannot be read: its large file is not on this machine."""


class Archive:
    """The files that training and evaluation left for one budget, each read once."""

    def __init__(self, results: Path, data_root: Path):
        self.results, self.data_root = results, data_root
        self._json: dict[Path, dict[str, Any] | None] = {}

    def manifest(self, run: str) -> dict[str, Any] | None:
        return self._read(self.results / "runs" / run / "manifest.json")

    def evaluation(self, run: str, evaluation: str) -> dict[str, Any] | None:
        """None where there is none, or one of another model than the run has now."""
        record = self._read(self._path(run, evaluation))
        return None if record is None or self._of_another_model(run, record) else record

    def certificate(self, dataset_key: str) -> dict[str, Any] | None:
        return self._read(self.results / "datasets" / f"{dataset_key}.json")

    def history_path(self, run: str) -> Path:
        return self.results / "runs" / run / "history.csv"

    def blob(self, record: dict[str, Any], name: str) -> Path | None:
        """Path of a large file that an evaluation wrote, where it wrote one; it may be absent on this machine."""
        entry = (record.get("files") or {}).get(name)
        if not entry:
            return None
        path = Path(entry["path"])
        return self.data_root.joinpath(*path.parts[1:]) if path.parts[0] == "data" else path

    def outcome(self, run: str, evaluation: str, metric: str) -> Outcome:
        """The number of one seed, or its status with a reason. A file that is not there yet is `pending`."""
        manifest = self.manifest(run)
        if manifest is None:
            return Outcome(run, evaluation, PENDING, f"run {run} has not been trained yet")
        if manifest["status"] != DONE:
            return Outcome(run, evaluation, FAILED, manifest.get("reason") or "training failed and gave no reason")
        record = self.evaluation(run, evaluation)
        if record is None:
            return Outcome(run, evaluation, PENDING, self._why_absent(run, evaluation))
        if record["status"] != DONE:
            return Outcome(run, evaluation, record["status"], record.get("reason") or "the estimator gave no reason")
        number = next((n for n in record["numbers"] if n["metric"] == metric), None)
        if number is None:
            given = ", ".join(n["metric"] for n in record["numbers"]) or "nothing"
            return Outcome(run, evaluation, FAILED, f"the estimator gave {given}, and no '{metric}'")
        if number.get("value") is None or not math.isfinite(number["value"]):
            return Outcome(
                run, evaluation, FAILED, f"the estimator's '{metric}' is not finite", dict(number, value=None)
            )
        return Outcome(run, evaluation, DONE, number=number)

    def _why_absent(self, run: str, evaluation: str) -> str:
        path = self._path(run, evaluation)
        if self._read(path) is None:
            return f"evaluation {evaluation} of run {run} has not been run yet"
        return (
            f"run {run} was trained again after evaluation {evaluation}, and is another model now (other processors "
            f"round in other ways): remove {path} and start snakemake"
        )

    def _of_another_model(self, run: str, record: dict[str, Any]) -> bool:
        """Whether the two files say so: evaluations did not always write down which model they were made of."""
        evaluated, model = record.get("model_sha256"), ((self.manifest(run) or {}).get("files") or {}).get("model")
        return evaluated is not None and model is not None and evaluated != model["sha256"]

    def _path(self, run: str, evaluation: str) -> Path:
        return self.results / "runs" / run / f"{evaluation}.json"

    def _read(self, path: Path) -> dict[str, Any] | None:
        if path not in self._json:
            self._json[path] = read_json(path) if path.is_file() else None
        return self._json[path]


@dataclass(frozen=True)
class Combined:
    """The seeds of one cell together.

    With values v_i of n seeds: obtained = mean(v_i); test_se = mean(test_se_i), because every seed is scored
    on the same examples; estimator_se = sqrt(sum(estimator_se_i^2)) / n, because the estimator's draws are
    independent; seed_sd = sample standard deviation of v_i, which one seed does not have.
    """

    outcomes: tuple[Outcome, ...]

    @cached_property
    def done(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == DONE]

    @property
    def obtained(self) -> float | None:
        return _mean([outcome.value for outcome in self.done if outcome.value is not None])

    @property
    def test_se(self) -> float | None:
        return _mean([o.number["test_se"] for o in self.done if o.number.get("test_se") is not None])

    @property
    def estimator_se(self) -> float | None:
        known = [o.number["estimator_se"] for o in self.done if o.number.get("estimator_se") is not None]
        return math.sqrt(sum(se**2 for se in known)) / len(known) if known else None

    @property
    def seed_sd(self) -> float | None:
        mean = self.obtained
        if mean is None or len(self.done) < 2:
            return None
        return math.sqrt(sum((o.value - mean) ** 2 for o in self.done) / (len(self.done) - 1))

    @property
    def converged(self) -> bool | None:
        known = [o.number["converged"] for o in self.done if o.number.get("converged") is not None]
        return all(known) if known else None

    @property
    def status(self) -> str:
        if self.done and len(self.done) < len(self.outcomes):
            return "partial"
        if self.done:
            return "unconverged" if self.converged is False else DONE
        statuses = {outcome.status for outcome in self.outcomes}
        return next((status for status in (FAILED, REFUSED) if status in statuses), PENDING)

    @property
    def reason(self) -> str:
        missing = [(seed, o) for seed, o in enumerate(self.outcomes) if o.status != DONE]
        parts = []
        if self.done and missing:
            parts.append(f"{len(self.done)} of {len(self.outcomes)} seeds")
        if len({o.reason for _, o in missing}) == 1:
            parts.append(missing[0][1].reason)
        else:
            parts += [f"seed {seed} {o.status}: {o.reason}" for seed, o in missing]
        if self.converged is False:
            seeds = [
                f"{seed}{_because(o.number)}"
                for seed, o in enumerate(self.outcomes)
                if o.number.get("converged") is False
            ]
            parts.append(f"the estimator has not converged (seed {', '.join(seeds)})")
        return "; ".join(parts)


def _because(number: dict[str, Any]) -> str:
    """Which of the estimator's tests failed, as far as its evidence says.

    `: standard error above tolerance`, `: the last doubling, to 4,000 draws, gained 0.154 nats, limit 0.1`.
    """
    evidence = number.get("evidence") or {}
    reasons = [evidence.get("not_converged_because"), evidence.get("ais_not_converged_because")]
    gain, limit = evidence.get("gain_of_doubling"), evidence.get("gain_tolerance", evidence.get("tolerance"))
    if gain is not None and limit is not None and gain >= limit:
        to = f", to {evidence['k']:,} draws," if "k" in evidence else " of the draws"
        gained = f"{gain:.3g} {number.get('unit', '')}".rstrip()
        reasons.append(f"the last doubling{to} gained {gained}, limit {limit:g}")
    said = "; ".join(reason for reason in reasons if reason)
    return f": {said}" if said else ""


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
