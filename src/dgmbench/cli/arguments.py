"""Flags that several verbs share, and what they and the documents given in place mean."""

import json
import os
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from dgmbench.errors import UserError

# Each has an environment variable too: that is how the jobs of one Snakemake invocation learn what it was asked.
BudgetFlag = Annotated[
    str | None,
    typer.Option(envvar="DGMBENCH_BUDGET", help="smoke, demo, laptop or paper; params.yaml's where left out."),
]
SeedsFlag = Annotated[
    int | None, typer.Option(envvar="DGMBENCH_SEEDS", help="Training seeds, where they differ from the experiments'.")
]
OnlyFlag = Annotated[
    list[str] | None,
    typer.Option(envvar="DGMBENCH_ONLY", help="An experiment to include; may be repeated. All if left out."),
]
ThreadsFlag = Annotated[int, typer.Option(min=1, help="Processor threads; the bits of a result depend on them.")]
# Its variable is read by `mirrors`: a list's entries would be cut at their blanks here.
MirrorFlag = Annotated[
    list[str] | None,
    typer.Option(
        help="Folder or base URL asked first; may be repeated, the best first. Where left out: the environment "
        "variable DGMBENCH_MIRROR, with commas between several, or params.yaml's."
    ),
]
OfflineFlag = Annotated[bool, typer.Option(envvar="DGMBENCH_OFFLINE", help="Never use the network.")]


def resolved_params(budget: str | None = None, seeds: int | None = None, only: list[str] | None = None) -> Any:
    from dgmbench.config import checked, load_params
    from dgmbench.params import Params

    params = load_params()
    changes = {"budget": budget, "seeds": seeds, "experiments": only or None}
    values = params.model_dump() | {name: value for name, value in changes.items() if value is not None}
    return checked(Params, values, "command line")


def document(text: str, flag: str) -> dict[str, Any]:
    """JSON given in place, or the JSON or YAML file named."""
    inline = text.lstrip().startswith("{")
    try:
        # Not YAML for both: YAML reads JSON's 1e-06 as a string.
        value = json.loads(text) if inline else yaml.safe_load(Path(text).read_text())
    except FileNotFoundError:
        raise UserError(
            f"{flag} takes a JSON object or the path of a file that holds one; there is no {text}."
        ) from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{flag} is not {'JSON' if inline else 'YAML'}: {error}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{flag} takes a JSON object or the path of a file that holds one, not {text!r}.")
    return value


def described(kind: type, values: dict[str, Any], flag: str) -> Any:
    values = {name: value for name, value in values.items() if name != "id"}
    known = {f.name: f.default is MISSING for f in fields(kind)}
    lacking = [name for name, required in known.items() if required and name not in values]
    unknown = [name for name in values if name not in known]
    if lacking or unknown:
        said = [f"{what} {', '.join(names)}" for what, names in (("it lacks", lacking), ("unknown", unknown)) if names]
        raise UserError(f"{flag} does not describe one {kind.__name__.lower()}: {'; '.join(said)}.")
    return kind(**values)


def mirrors(given: list[str] | None) -> tuple[str, ...]:
    """The command line's mirrors, or the environment's, or params.yaml's."""
    from dgmbench.params import MIRROR_VARIABLE, mirror_list

    return mirror_list(given) or mirror_list(os.environ.get(MIRROR_VARIABLE)) or resolved_params().mirrors


def named(names: list[str] | None, everything: bool, known: list[str]) -> list[str]:
    if everything:
        return known
    if not names:
        raise UserError("name a dataset, or write --all: 'dgmbench list datasets' shows them.")
    return names
