"""The command line: the verbs that the rules call, and those for people."""

import errno
import os
import signal
import sys
from typing import Annotated

import typer

from dgmbench import __version__
from dgmbench.cli import people, steps
from dgmbench.errors import UserError

app = typer.Typer(
    help="A benchmark suite of deep generative models. `make run` or `snakemake` runs the whole pipeline; these verbs "
    "are its single steps, and ways to look at it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
INTERRUPTED = 130
STEPS = "Steps of the pipeline"
PEOPLE = "For people"

for verb in (steps.fetch, steps.prepare, steps.train, steps.evaluate, steps.assemble, steps.report, steps.restore):
    app.command(rich_help_panel=STEPS)(verb)
app.command("list", rich_help_panel=PEOPLE)(people.list_)
for verb in (people.plan, people.why, people.new, people.clean, people.schemas):
    app.command(rich_help_panel=PEOPLE)(verb)


def _version(value: bool) -> None:
    if value:
        print(f"dgmbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a person's mistake is one sentence and status 2, an interruption status 130."""
    # Snakemake and cluster schedulers stop a job with SIGTERM: treat it as Ctrl-C, so that nothing
    # half-written stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
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
