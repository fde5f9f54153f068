"""Schema of params.yaml, which `dgmbench.config` reads and checks; its defaults and reference are written from it."""

from typing import Any, Literal

from pydantic import Field, field_validator

from dgmbench.schemas import Budget, Schema

MIRROR_VARIABLE = "DGMBENCH_MIRROR"


class Params(Schema):
    """What a user sets, in params.yaml or with `snakemake --config name=value`."""

    budget: Budget = Field(
        "demo",
        description="How much work: smoke (seconds, for tests), demo (data inside installed packages, minutes), "
        "laptop (real data, hours on two cores), paper (as published; a GPU cluster).",
    )
    experiments: list[str] | Literal["all"] = Field(
        "all", description="Names of the experiments to run (see `dgmbench list experiments`), or all."
    )
    seeds: int | None = Field(
        None, ge=1, le=1000, description="Training seeds for each run; null takes what each experiment says."
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="Where models are trained and evaluated. Bit-identical reruns are promised on the CPU."
    )
    mirror: str | list[str] | None = Field(
        None,
        description="A folder or base URL that holds the datasets' canonical files, asked before their own "
        "addresses; or a list of several, asked in this order. The environment variable "
        f"{MIRROR_VARIABLE} sets it too. A comma separates several, there and here.",
    )
    offline: bool = Field(False, description="Never use the network: only the mirror and installed packages.")
    checkpoint_seconds: float = Field(
        30.0, ge=0, description="Least time between two checkpoints of a training, in seconds."
    )

    @property
    def mirrors(self) -> tuple[str, ...]:
        """The folders and base URLs of `mirror`, in their order."""
        return mirror_list(self.mirror)

    @field_validator("experiments", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value != "all" else value


def mirror_list(mirror: str | list[str] | None) -> tuple[str, ...]:
    """What `mirror` names, one or several with commas between them, as a list without repetitions."""
    given = [mirror] if isinstance(mirror, str) else mirror or []
    return tuple(dict.fromkeys(one.strip() for several in given for one in several.split(",") if one.strip()))
