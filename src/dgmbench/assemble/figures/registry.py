"""Find figures by folder: `figures/<figure>.py` is one where it defines `Options` and `draw`."""

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

from dgmbench.errors import UserError, nearest

_ROOT = Path(__file__).parent


@cache
def figure_modules() -> dict[str, str]:
    """Name of each figure -> its module, without importing any."""
    return {
        path.stem: f"dgmbench.assemble.figures.{path.stem}"
        for path in sorted(_ROOT.glob("*.py"))
        if "\nclass Options(" in (text := path.read_text()) and "\ndef draw(" in text
    }


def figure(name: str) -> ModuleType:
    """The figure's module, which loads no drawing library before it draws.

    Raises:
        UserError: there is no such figure; says the nearest.
    """
    modules = figure_modules()
    if name not in modules:
        raise UserError(f"there is no figure '{name}', {nearest(name, modules)}")
    return importlib.import_module(modules[name])
