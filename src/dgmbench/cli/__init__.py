"""The command line: the verbs that the rules call, and those for people."""

import errno
import os
import signal
import sys

from dgmbench import warm
from dgmbench.errors import UserError

INTERRUPTED = 130


def main() -> None:
    """Run the command line, in a process that has its imports done already where there is one."""
    status = warm.hand_over(sys.argv[1:])
    if status is not None:
        sys.exit(status)
    work()


def work() -> None:
    """Run the command line in this process.

    A person's mistake is one sentence and status 2, an interruption status 130.
    """
    # Snakemake and cluster schedulers stop a job with SIGTERM: treat it as Ctrl-C, so that nothing
    # half-written stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from dgmbench.cli.app import app

    try:
        app()
    except UserError as error:
        print(f"dgmbench: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer has turned Ctrl-C into this
            print("dgmbench: interrupted; what was done is kept, start again to continue.", file=sys.stderr)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        print(
            f"dgmbench: the disk is full{where} ({os.strerror(error.errno)}); nothing half-written was left. "
            "Make room and start again.",
            file=sys.stderr,
        )
        sys.exit(2)
    finally:
        # All is done or undone: a signal that comes while the interpreter takes itself down has nothing to stop.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
