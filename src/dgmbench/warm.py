"""Steps that need not wait for imports: a process that has imported what they need forks one for each of them.

Importing torch and pandas takes seconds, and most steps of a small budget less. `start` starts such a process beside
the workflow. A `dgmbench` that finds its socket hands over its arguments, folder, environment and standard streams,
passes signals on, and ends as its fork does; one that finds none works by itself. Nothing but time depends on it.

A fork dies with the process that forked it and with the `dgmbench` that asked for it, and that process itself ends with
the workflow: nothing goes on that somebody has killed. Snakemake's benchmark files know only the `dgmbench` that waits:
their wall time is right, their memory and processor time are not (`measured` in a run's manifest is).
"""

import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "DGMBENCH_WARM"  # the folder of the socket
IMPORTED = (
    "dgmbench.cli.app",
    "dgmbench.preparation",
    "dgmbench.training.run",
    "dgmbench.evaluation",
    "dgmbench.assemble.experiment",
    "dgmbench.report.site",
    "matplotlib.figure",
    "scipy.optimize",
    "scipy.stats",
    "seaborn",
)
_STREAMS = 3
_LENGTH = struct.Struct("!I")
_STATUS = struct.Struct("!i")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_started: list[subprocess.Popen] = []  # their standard input stays open as long as this process is there


def start() -> None:
    """Start the process, on Linux; steps that begin before it is ready work by themselves."""
    if sys.platform != "linux":
        return
    folder = tempfile.mkdtemp(prefix="dgmbench-")
    _started.append(subprocess.Popen([sys.executable, "-m", "dgmbench.warm", folder], stdin=subprocess.PIPE))
    os.environ[VARIABLE] = folder


def hand_over(arguments: list[str]) -> int | None:
    """Have the step done by a fork, and return its exit status; None where there is nobody to ask.

    Processes that torchrun started are told apart by their environment from the start, and work by themselves.
    """
    if VARIABLE not in os.environ or "RANK" in os.environ:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(_address(os.environ[VARIABLE])))
        except OSError:
            return None
        # Ctrl-C reaches the fork by itself: it is in this process's group.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        step = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ), "group": os.getpgrp()}
        message = json.dumps(step).encode()
        socket.send_fds(connection, [_LENGTH.pack(len(message))], range(_STREAMS))
        connection.sendall(message)
        # From here on: in the middle of the message its byte would be taken for a part of it.
        signal.signal(signal.SIGTERM, lambda number, frame: connection.sendall(bytes([number])))
        answer = _received(connection, _STATUS.size)
    if len(answer) < _STATUS.size:
        return 128 + signal.SIGKILL  # who should have said how it ended was killed, and the fork with it
    (status,) = _STATUS.unpack(answer)
    return status if status >= 0 else 128 - status


def _address(folder: str) -> Path:
    """A socket for each installation: another Python's `dgmbench` (in a conda environment) must not find this one."""
    return Path(folder) / hashlib.sha256(f"{sys.prefix}\n{__file__}".encode()).hexdigest()[:12]


def _received(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer where the other end has gone."""
    parts = b""
    with contextlib.suppress(ConnectionError):
        while len(parts) < size and (part := connection.recv(size - len(parts))):
            parts += part
    return parts


@dataclass(frozen=True)
class _Fork:
    pid: int
    ended: int  # a file descriptor that can be read when the fork has ended
    connection: socket.socket


def serve(listening: socket.socket) -> bool:
    """Fork for each step that is asked for, until the standard input ends; True in a fork, which has its step to do."""
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ)
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        forks: set[_Fork] = set()
        asked = True
        while asked or forks:
            for key, _ in selector.select():
                if key.fileobj is listening:
                    connection = listening.accept()[0]
                    step, streams = _step(connection)
                    if step is None:
                        connection.close()
                        continue
                    parent, pid = os.getpid(), os.fork()
                    if not pid:
                        _become(step, streams, parent)
                        return True
                    fork = _Fork(pid, os.pidfd_open(pid), connection)
                    for stream in streams:
                        os.close(stream)
                    forks.add(fork)
                    selector.register(fork.connection, selectors.EVENT_READ, fork)
                    selector.register(fork.ended, selectors.EVENT_READ, fork)
                elif key.data is None:
                    asked = False
                    selector.unregister(key.fileobj)
                elif key.data in forks and key.fileobj is key.data.connection:
                    _pass_on(key.data, selector)
                elif key.data in forks:
                    _report(key.data, selector)
                    forks.remove(key.data)
    return False


def _step(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """What is asked for, with its standard streams; None of one who has gone before it was said."""
    header, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, _STREAMS)
    size = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else 0
    message = _received(connection, size)
    if not size or len(message) < size:
        for stream in streams:
            os.close(stream)
        return None, []
    return json.loads(message), streams


def _become(step: dict[str, Any], streams: list[int], parent: int) -> None:
    """Make this fork what the process that asked would be."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(OSError):
        os.setpgid(0, step["group"])
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    os.chdir(step["folder"])
    os.environ.clear()
    os.environ.update(step["environment"])
    sys.argv = ["dgmbench", *step["arguments"]]


def _pass_on(fork: _Fork, selector: selectors.BaseSelector) -> None:
    """The signals that the asking process got; where it is dead, so is its step."""
    try:
        signals = fork.connection.recv(16)
    except ConnectionError:
        signals = b""
    if not signals:
        selector.unregister(fork.connection)
    for number in signals or [signal.SIGKILL]:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fork.ended, number)


def _report(fork: _Fork, selector: selectors.BaseSelector) -> None:
    """How a fork ended, to the process that asked for it."""
    status = os.waitstatus_to_exitcode(os.waitpid(fork.pid, 0)[1])
    with contextlib.suppress(OSError):
        fork.connection.sendall(_STATUS.pack(status))
    with contextlib.suppress(KeyError):
        selector.unregister(fork.connection)
    selector.unregister(fork.ended)
    fork.connection.close()
    os.close(fork.ended)


def main(folder: str) -> None:
    """What `start` starts: import, listen, fork; a fork goes on as `dgmbench` itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the steps stop, and then the workflow
    own = os.getpid()
    try:
        for name in IMPORTED:
            importlib.import_module(name)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(_address(folder)))
            listening.listen()
            in_fork = serve(listening)
    finally:
        if os.getpid() == own:
            shutil.rmtree(folder, ignore_errors=True)
    if in_fork:
        from dgmbench.cli import work

        work()


if __name__ == "__main__":
    main(sys.argv[1])
