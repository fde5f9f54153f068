"""Progress for everything longer than two seconds: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from dgmbench.format import duration


def plural(unit: str) -> str:
    return f"{unit}es" if unit.endswith(("tch", "sh", "s", "x")) else f"{unit}s"


class Task(Protocol):
    def advance(self, by: int = 1) -> None: ...


class Progress(Protocol):
    def task(self, name: str, *, total: int, done: int = 0, unit: str = "step"): ...


class _Silent:
    def advance(self, by: int = 1) -> None:
        pass


class NoProgress:
    """Says nothing: for tests and for use as a library."""

    @contextmanager
    def task(self, name: str, *, total: int, done: int = 0, unit: str = "step") -> Iterator[Task]:
        yield _Silent()


class _Lines:
    """One plain line at most every `interval` seconds: done of total, rate, time to go."""

    def __init__(self, label: str, total: int, done: int, unit: str, interval: float):
        self.label, self.total, self.done, self.interval = label, total, done, interval
        self.units = plural(unit)
        self.start, self.first = time.monotonic(), done
        self.next = self.start + 2.0

    def advance(self, by: int = 1) -> None:
        self.done += by
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + self.interval
        rate = (self.done - self.first) / max(now - self.start, 1e-9)
        to_go = (self.total - self.done) / rate if rate > 0 else float("inf")
        print(
            f"{self.label}: {self.done:,} of {self.total:,} {self.units}, {rate:,.1f} {self.units}/s, "
            f"{duration(to_go)} to go",
            file=sys.stderr,
            flush=True,
        )


class _Bar:
    def __init__(self, bar, identity):
        self.bar, self.identity = bar, identity

    def advance(self, by: int = 1) -> None:
        self.bar.advance(self.identity, by)


class ConsoleProgress:
    """A rich bar with a rate and a time to go on a terminal, plain lines where there is none."""

    def __init__(self, label: str = "", interval: float = 10.0):
        self.label, self.interval = label, interval

    @contextmanager
    def task(self, name: str, *, total: int, done: int = 0, unit: str = "step") -> Iterator[Task]:
        label = f"{self.label} {name}".strip()
        if not sys.stderr.isatty():
            yield _Lines(label, total, done, unit, self.interval)
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class _RateColumn(ProgressColumn):
            def render(self, task) -> Text:
                rate = task.finished_speed or task.speed
                return Text(plural(unit) if rate is None else f"{rate:,.1f} {plural(unit)}/s")

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield _Bar(bar, bar.add_task(label, total=total, completed=done))
