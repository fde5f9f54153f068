"""Fetching as a person sees it: one display for all the files that are on their way, and a table of what came."""

import sys
import time
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from dgmbench import people
from dgmbench.data.fetch import Fetched
from dgmbench.data.transfer import Transfer

_NAMED = 3  # files that a plain line names; the others are in its count


class Lines:
    """One plain line at most every `interval` seconds, the first after two: what is done, and what is on its way."""

    def __init__(self, interval: float = 10.0):
        self.interval = interval
        self.start = time.monotonic()
        self.next, self.before, self.at = self.start + 2.0, 0, self.start

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, transfers: Sequence[Transfer]) -> None:
        now, moved = time.monotonic(), sum(t.done for t in transfers)
        if now < self.next:
            return
        rate = max(moved - self.before, 0) / max(now - self.at, 1e-9) / 1e6
        self.next, self.before, self.at = now + self.interval, moved, now
        active = [t for t in transfers if t.active]
        more = [f"and {len(active) - _NAMED} more"] if len(active) > _NAMED else []
        parts = [_summary(transfers), f"{rate:,.1f} MB/s", *map(_progress, active[:_NAMED]), *more]
        print("; ".join(parts), file=sys.stderr, flush=True)


class Bars:
    """A bar for all the files and one for each that is on its way, with bytes, rate and time to go."""

    def __init__(self, console: Console):
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self.all = self.bar.add_task("fetch", total=None)
        self.shown: dict[str, object] = {}

    def __enter__(self) -> "Bars":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def show(self, transfers: Sequence[Transfer]) -> None:
        known = sum(max(t.total or 0, t.done) for t in transfers)
        moved = sum(t.done for t in transfers)
        self.bar.update(self.all, description=_summary(transfers), completed=moved, total=known or None)
        for transfer in transfers:
            if transfer.active and transfer.name not in self.shown:
                self.shown[transfer.name] = self.bar.add_task(f"  {transfer.name}", total=None)
            if transfer.ended and transfer.name in self.shown:
                self.bar.remove_task(self.shown.pop(transfer.name))
            elif transfer.name in self.shown:
                self.bar.update(self.shown[transfer.name], completed=transfer.done, total=transfer.total)


def console_display() -> Lines | Bars:
    """Bars on a terminal, plain lines where there is none."""
    return Bars(Console(stderr=True)) if sys.stderr.isatty() else Lines()


def _summary(transfers: Sequence[Transfer]) -> str:
    return f"fetch: {sum(t.ended for t in transfers):,} of {len(transfers):,} files"


def _progress(transfer: Transfer) -> str:
    of = f" of {transfer.total / 1e6:,.1f}" if transfer.total is not None else ""
    return f"{transfer.name} {transfer.done / 1e6:,.1f}{of} MB"


def table(results: Iterable[Fetched]) -> Table:
    """What came and from where, for a terminal."""
    shown = []
    for result in results:
        status = "failed" if result.error else "verified" if result.rows else "generated, nothing to fetch"
        size = sum(row["bytes"] for row in result.rows) / 1e6
        sources = ", ".join(dict.fromkeys(_kind(row["source"]) for row in result.rows))
        cells = (f"{len(result.rows):,}", f"{size:,.1f}") if result.rows else ("", "")
        shown.append((result.name, *cells, sources, status))
    return people.table("Raw files", ("dataset", "files", "MB", "source", "status"), shown)


def _kind(source: str) -> str:
    """`mirror: mnist/a.gz` -> mirror, `package sklearn: a` -> package sklearn, an address -> its host."""
    return urlsplit(source).hostname or source if "://" in source else source.partition(":")[0]
