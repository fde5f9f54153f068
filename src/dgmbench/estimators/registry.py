"""Find estimators by folder: `estimators/<estimator>.py` is one where it defines `Settings` and `estimate`."""

import importlib
from functools import cache
from pathlib import Path

from dgmbench.errors import UserError, nearest
from dgmbench.estimators.base import Estimator

_ROOT = Path(__file__).parent


@cache
def estimator_modules() -> dict[str, str]:
    """Name of each estimator -> its module, without importing any."""
    return {
        path.stem: f"dgmbench.estimators.{path.stem}"
        for path in sorted(_ROOT.glob("*.py"))
        if "\nclass Settings(" in (text := path.read_text()) and "\ndef estimate(" in text
    }


def estimator_module(name: str) -> str:
    modules = estimator_modules()
    if name not in modules:
        raise UserError(f"there is no estimator '{name}': {nearest(name, modules)}")
    return modules[name]


def estimator(name: str) -> Estimator:
    return importlib.import_module(estimator_module(name))
