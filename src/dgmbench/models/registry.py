"""Find models by folder: `models/<family>/<model>.py` is a model where it defines `Spec` and `Model`."""

import importlib
from functools import cache
from pathlib import Path

from dgmbench.errors import UserError, nearest
from dgmbench.models.base import Model

_ROOT = Path(__file__).parent


@cache
def model_modules() -> dict[str, str]:
    """Name of each model -> its module, without importing any."""
    found: dict[str, str] = {}
    for path in sorted(_ROOT.glob("*/*.py")):
        if path.stem.startswith("_"):
            continue
        text = path.read_text()
        if "\nclass Spec(" not in text or "\nclass Model(" not in text:
            continue
        if path.stem in found:
            raise UserError(f"two models are called '{path.stem}': rename {path} or the file of {found[path.stem]}.")
        found[path.stem] = f"dgmbench.models.{path.parent.name}.{path.stem}"
    return found


def model_module(name: str) -> str:
    modules = model_modules()
    if name not in modules:
        raise UserError(f"there is no model '{name}': {nearest(name, modules)}")
    return modules[name]


def model_class(name: str) -> type[Model]:
    return importlib.import_module(model_module(name)).Model


def model_family(name: str) -> str:
    return model_module(name).split(".")[-2]
