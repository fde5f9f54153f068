"""Prepare many datasets, each in a process of its own, and measure it: rows for each second, peak memory."""

import csv
import io
import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from dgmbench.data.catalogue import DatasetRef, entry, resolve
from dgmbench.data.certificate import read_certificate
from dgmbench.data.fetch import MANIFEST
from dgmbench.data.prepare import prepare
from dgmbench.errors import UserError
from dgmbench.files import write_text
from dgmbench.machine import commit, machine, peak_memory_mb
from dgmbench.progress import ConsoleProgress

if TYPE_CHECKING:
    from rich.table import Table

DONE, NOT_FETCHED, FAILED = "prepared", "not fetched", "failed"


@dataclass(frozen=True)
class Prepared:
    """What preparing one dataset gave and cost; the numbers are 0 where it was not prepared.

    Attributes:
        rows: examples of all splits together. `values`: numbers in one of them.
        megabytes: of the prepared folder. `peak_mb`: largest resident set of the process that prepared it.
    """

    dataset: str
    status: str
    reason: str = ""
    rows: int = 0
    values: int = 0
    megabytes: float = 0.0
    seconds: float = 0.0
    peak_mb: float = 0.0

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0


def prepare_all(names: Iterable[str], raw: Path, destination: Path, cards: Path | None) -> list[Prepared]:
    """Prepare each dataset by its entry's own options, one after another; a failure is a row with its reason.

    Args:
        cards: folder for `<name>.json` and `<name>.png` of each, or None for no cards.
    """
    results = []
    # A process for each dataset, so that one's memory is not counted as another's.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for name in names:
            if entry(name).files and not (raw / name / MANIFEST).is_file():
                results.append(Prepared(name, NOT_FETCHED, f"dgmbench fetch {name}"))
                continue
            try:
                results.append(pool.submit(_prepare_one, name, raw, destination, cards).result())
            except (UserError, BrokenProcessPool) as error:
                results.append(Prepared(name, FAILED, str(error)))
    return results


def _prepare_one(name: str, raw: Path, destination: Path, cards: Path | None) -> Prepared:
    folder, result = prepare_measured(resolve(name), raw, destination)
    if cards is not None:
        from dgmbench.report.cards import write_card

        write_card(folder, cards / f"{name}.json")
    return result


def prepare_measured(ref: DatasetRef, raw: Path, destination: Path) -> tuple[Path, Prepared]:
    """Prepare one dataset in this process, with progress; the folder, and what it cost."""
    started = time.monotonic()
    folder = prepare(ref, raw, destination, ConsoleProgress(ref.name))
    seconds, peak = time.monotonic() - started, peak_memory_mb()
    facts = list(read_certificate(folder)["splits"].values())
    rows, size = sum(f["rows"] for f in facts), sum(path.stat().st_size for path in folder.iterdir())
    return folder, Prepared(
        ref.name, DONE, "", rows, facts[0]["dimension"], round(size / 1e6, 1), round(seconds, 2), peak
    )


def table(results: Iterable[Prepared]) -> "Table":
    """What was prepared, for a terminal."""
    from dgmbench import people  # not above: the processes that are measured would load all that it needs

    shown = []
    for r in results:
        sizes = (f"{r.rows:,}", f"{r.values:,}", f"{r.megabytes:,.1f}")
        cost = (f"{r.seconds:.1f}", f"{r.rows_per_second:,.0f}", f"{r.peak_mb:,.0f}")
        shown.append((r.dataset, r.status, *sizes, *cost, r.reason))
    columns = ("dataset", "status", "rows", "values", "MB", "seconds", "rows/s", "peak MB", "what to do")
    return people.table("Datasets", columns, shown)


def write_benchmark(path: Path, results: Iterable[Prepared]) -> None:
    """The same as CSV, with the machine and the commit that it was measured on."""
    where = {"processor": machine()["processor"], "commit": commit()}
    rows = [asdict(r) | {"rows_per_second": round(r.rows_per_second)} | where for r in results if r.status == DONE]
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, [f.name for f in fields(Prepared)] + ["rows_per_second", *where], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, stream.getvalue())
