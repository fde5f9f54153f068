"""What a model's `fit` is given: a generator, steps that survive a kill, and a history that notices divergence.

    session.track(network=network, optimiser=optimiser)   # restores both where a checkpoint exists
    for step in session.steps(total):
        ...
        session.record(loss=loss)

Everything that the next step depends on is either tracked or the generator, so that a run killed at any step
and started again ends bit-identical on the CPU.
"""

import math
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dgmbench.errors import Diverged
from dgmbench.progress import NoProgress, Progress
from dgmbench.training import checkpoint


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


Tracked = Stateful | MutableMapping[str, Any]


class Session:
    """One training in progress.

    Args:
        generator: seeded from the run's identity; its device is the run's device.
        checkpoint_path: file that holds the state between steps, or None to keep none.
        checkpoint_seconds: the least time between two checkpoints (0: after every step).
        fingerprint: what the checkpoint must have been written for; any other checkpoint is discarded.
        history_rows: the history keeps about this many rows, each the mean over the steps since the last.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        checkpoint_path: Path | None = None,
        checkpoint_seconds: float = 30.0,
        fingerprint: str = "",
        progress: Progress | None = None,
        history_rows: int = 200,
    ):
        self.generator = generator
        self.device = generator.device
        self.progress = progress or NoProgress()
        self.history: list[dict[str, float]] = []
        self.step = 0
        self._checkpoint_path = checkpoint_path
        self._checkpoint_seconds = checkpoint_seconds
        self._fingerprint = fingerprint
        self._history_rows = history_rows
        self._tracked: dict[str, Tracked] = {}
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._last_finite: dict[str, float] = {}
        self._started = time.monotonic()
        self._seconds_before = 0.0

    @property
    def seconds(self) -> float:
        """Time spent in this training so far, earlier tries at it counted in."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def resumable(self) -> bool:
        """Whether a checkpoint of this very run waits: costly initialisation can be left out."""
        return self._stored() is not None

    def track(self, **objects: Tracked) -> None:
        """Name what changes from step to step: modules, optimisers, or dictionaries of tensors and numbers.

        Where a checkpoint of this run exists, the objects, the generator, the history and the step are
        restored from it at once.
        """
        self._tracked.update(objects)
        stored = self._stored()
        if stored is None:
            return
        for name, thing in objects.items():
            _restore(thing, stored["tracked"][name])
        self.generator.set_state(stored["generator"])
        self.step, self.history = stored["step"], stored["history"]
        self._sums, self._counts, self._last_finite = stored["sums"], stored["counts"], stored["last_finite"]
        self._seconds_before = stored["seconds"]

    def steps(self, total: int, unit: str = "step") -> Iterator[int]:
        """Yield the steps still to do, from the restored one to total - 1; checkpoint in between."""
        last_saved = time.monotonic()
        with self.progress.task("train", total=total, done=self.step, unit=unit) as task:
            try:
                while self.step < total:
                    yield self.step
                    self.step += 1
                    if self.step % max(1, total // self._history_rows) == 0:
                        self._close_history_row()
                    task.advance()
                    if time.monotonic() - last_saved >= self._checkpoint_seconds:
                        self.save()
                        last_saved = time.monotonic()
            finally:
                # A training that stops early, by itself or by an error, keeps its last steps too.
                self._close_history_row()

    def record(self, **values: float | Tensor) -> None:
        """Add values of this step to the history; raise `Diverged` at once where one is not finite."""
        numbers = {name: float(value) for name, value in values.items()}
        if not all(map(math.isfinite, numbers.values())):
            raise Diverged(self.step, numbers, self._last_finite)
        self._last_finite.update(numbers)
        for name, number in numbers.items():
            self._sums[name] = self._sums.get(name, 0.0) + number
            self._counts[name] = self._counts.get(name, 0) + 1

    def save(self) -> None:
        """Write a checkpoint of everything tracked, atomically."""
        if self._checkpoint_path is None:
            return
        checkpoint.save(
            self._checkpoint_path,
            {
                "fingerprint": self._fingerprint,
                "tracked": {name: _snapshot(thing) for name, thing in self._tracked.items()},
                "generator": self.generator.get_state(),
                "step": self.step,
                "history": self.history,
                "sums": self._sums,
                "counts": self._counts,
                "last_finite": self._last_finite,
                "seconds": self.seconds,
            },
        )

    def discard(self) -> None:
        """Remove the checkpoint: the run is finished and its results are written."""
        if self._checkpoint_path is not None:
            self._checkpoint_path.unlink(missing_ok=True)

    def _close_history_row(self) -> None:
        if self._sums:
            means = {name: self._sums[name] / self._counts[name] for name in self._sums}
            self.history.append({"step": self.step, **means})
            self._sums, self._counts = {}, {}

    def _stored(self) -> dict[str, Any] | None:
        if self._checkpoint_path is None or not self._checkpoint_path.is_file():
            return None
        stored = checkpoint.load(self._checkpoint_path)
        return stored if stored is not None and stored["fingerprint"] == self._fingerprint else None


def _snapshot(thing: Tracked) -> dict[str, Any]:
    return dict(thing) if isinstance(thing, MutableMapping) else thing.state_dict()


def _restore(thing: Tracked, state: dict[str, Any]) -> None:
    if not isinstance(thing, MutableMapping):
        thing.load_state_dict(state)
        return
    for name, value in state.items():
        # In place where possible: a model may hold the same tensor under another name.
        if isinstance(value, Tensor) and isinstance(thing.get(name), Tensor) and thing[name].shape == value.shape:
            thing[name].data.copy_(value)
        else:
            thing[name] = value
