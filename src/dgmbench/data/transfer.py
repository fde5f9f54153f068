"""Files brought side by side: what each transfer has done, and the threads that do them.

The threads only fetch; the calling thread gathers their results and tells the display, so that nothing that a
person reads is written by two threads.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

_TICK_SECONDS = 0.2
_GRACE_SECONDS = 2.0


class Stopped(Exception):
    """The transfer was asked to end before it was done."""


@dataclass
class Transfer:
    """How far one file is.

    Attributes:
        total: bytes of the file, None until a source has told. `done`: bytes of it that are here.
        active: whether a thread works on it. `ended`: whether one did, with the file or with an error.
    """

    name: str
    total: int | None = None
    done: int = 0
    active: bool = False
    ended: bool = False
    stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def begin(self, total: int | None, done: int = 0) -> None:
        self.total, self.done = total, done

    def advance(self, by: int) -> None:
        """Count bytes; raises `Stopped` where the transfer is to end."""
        self.check()
        self.done += by

    def check(self) -> None:
        if self.stop.is_set():
            raise Stopped


class Display(Protocol):
    """What shows the transfers while they run: told of them all, every fifth of a second, by one thread."""

    def __enter__(self) -> "Display": ...
    def __exit__(self, *error: object) -> None: ...
    def show(self, transfers: Sequence[Transfer]) -> None: ...


class NoDisplay:
    """Shows nothing: for tests and for use as a library."""

    def __enter__(self) -> "NoDisplay":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, transfers: Sequence[Transfer]) -> None:
        pass


def side_by_side(
    work: Callable[[int, Transfer], Any], transfers: Sequence[Transfer], jobs: int, display: Display
) -> list[Any]:
    """`work(index, transfer)` for every transfer, at most `jobs` at a time; results or exceptions, in their order.

    An interruption stops at once: the threads are told, those that move bytes end within a moment, and one that waits
    for a server is left behind (it is a daemon, and what it writes may end at any byte).
    """
    stop, results = threading.Event(), [None] * len(transfers)
    waiting: SimpleQueue[int] = SimpleQueue()
    ended: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    for index, transfer in enumerate(transfers):
        transfer.stop = stop
        waiting.put(index)

    def worker() -> None:
        for index in _taken(waiting, stop):
            transfers[index].active = True
            try:
                result = work(index, transfers[index])
            except BaseException as error:  # it belongs to the thread that asked
                result = error
            transfers[index].active, transfers[index].ended = False, True
            ended.put((index, result))

    threads = [threading.Thread(target=worker, daemon=True) for _ in range(min(jobs, len(transfers)))]
    try:
        with display:
            for thread in threads:
                thread.start()
            missing = len(transfers)
            while missing:
                try:
                    index, results[index] = ended.get(timeout=_TICK_SECONDS)
                    missing -= 1
                except Empty:
                    pass
                display.show(transfers)
    finally:
        stop.set()
        deadline = time.monotonic() + _GRACE_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(deadline - time.monotonic(), 0.0))
    return results


def _taken(waiting: "SimpleQueue[int]", stop: threading.Event) -> Iterator[int]:
    while not stop.is_set():
        try:
            yield waiting.get_nowait()
        except Empty:
            return
