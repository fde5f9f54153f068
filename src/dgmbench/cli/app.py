"""The verbs, as typer's application: those that the rules call, and those for people."""

from typing import Annotated

import typer

from dgmbench import __version__
from dgmbench.cli import people, steps

app = typer.Typer(
    help="A benchmark suite of deep generative models. `make run` or `snakemake` runs the whole pipeline; these verbs "
    "are its single steps, and ways to look at it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
