"""What a person starts from: a model's skeleton, the entry of a dataset of one's own, an experiment that tries it.

Each is one file, complete and valid as it is written, to be edited afterwards.
"""

import keyword
import re
from pathlib import Path
from typing import Any

from dgmbench.errors import UserError
from dgmbench.files import write_yaml

FAMILIES_ROOT = Path(__file__).parent / "models"
TEMPLATE = Path(__file__).parent / "templates" / "model.py.txt"
EXPERIMENTS_ROOT = Path("workflow/experiments/mine")
_TABLES = (".npy", ".npz", ".csv", ".csv.gz", ".parquet")
_ARCHIVES = (".zip", ".tgz", ".tar.gz", ".tar")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".webp")


def new_model(name: str, family: str) -> None:
    """Write models/<family>/<name>.py from the template.

    Raises:
        UserError: the name cannot be a module, or is taken.
    """
    from dgmbench.models.registry import model_modules

    for word, what in ((name, "model"), (family, "family")):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", word) or keyword.iskeyword(word):
            raise UserError(f"'{word}' cannot name a {what}: write lower case letters, digits and underscores.")
    if name in model_modules():
        raise UserError(f"there is a model '{name}' already, {model_modules()[name]}: choose another name.")
    folder = FAMILIES_ROOT / family
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").touch()
    path = folder / f"{name}.py"
    path.write_text(TEMPLATE.read_text().replace("{{name}}", name))
    print(
        f"{path}: a working model. Write your equation, your Spec and your fit; 'pytest tests/contract' finds it by "
        f"itself, and a row with 'model: {name}' in an experiment's file puts it into a table."
    )


# Settings with which an estimator says something in seconds; its defaults are for numbers that stand in tables.
_QUICK: dict[str, dict[str, Any]] = {
    "ais": {"temperatures": 200, "chains": 50},
    "importance_weighted": {"k": 50},
    "parzen": {"samples": 1000},
}


def new_experiment(name: str, dataset: str) -> Path:
    """Write workflow/experiments/mine/<name>.yaml: every model that accepts the dataset, by every estimator it allows.

    Under the budget smoke each model is as small as its tests make it, under laptop it has its defaults.

    Raises:
        UserError: the name is taken or cannot be one, or there is no such dataset.
    """
    from dgmbench.config import Experiment, checked, load_experiments
    from dgmbench.data import catalogue
    from dgmbench.estimators.registry import estimator, estimator_modules
    from dgmbench.models.registry import model_class, model_modules

    _check_name(name, "experiment", load_experiments())
    ref = catalogue.resolve(dataset)
    values, held = catalogue.describe(ref).values, catalogue.splits(ref)
    if "train" not in held:
        raise UserError(
            f"dataset '{dataset}' has no train split, only {', '.join(held)}: no model can be trained on it."
        )
    scored = {"examples": 500} | ({} if "test" in held else {"split": "train"})
    estimators = {e: estimator(e) for e in estimator_modules()}
    rows: dict[str, Any] = {}
    small: dict[str, Any] = {}
    for model in model_modules():
        cls = model_class(model)
        if values in cls.accepts:
            can = [e for e, module in estimators.items() if issubclass(cls, module.REQUIRES)]
            rows[model] = {"model": model, "evaluate": can}
            small[model] = {"spec": _smoke_spec(model_modules()[model])}
    used = [e for e in estimators if any(e in row["evaluate"] for row in rows.values())]
    quick = {e: {"settings": (scored if estimators[e].METRICS else {}) | _QUICK.get(e, {})} for e in used}
    document = {
        "title": f"Every model on {dataset}",
        "document": "Your own",
        "source": f"dgmbench new experiment {name} --dataset {dataset}",
        "question": f"What does each model that accepts {values} values make of {dataset}?",
        "rows": rows,
        "evaluations": {e: {"estimator": e} for e in used},
        "figure": {"name": "likelihood_bars"},
        "budgets": {
            "smoke": {"datasets": [{"name": dataset}], "rows": small, "evaluations": quick},
            "laptop": {"datasets": [{"name": dataset}], "seeds": 3},
        },
    }
    if "test" not in held:
        document["budgets"]["laptop"]["evaluations"] = {
            e: {"settings": {"split": "train"}} for e in used if estimators[e].METRICS
        }
    checked(Experiment, document, name)
    path = EXPERIMENTS_ROOT / f"{name}.yaml"
    write_yaml(path, document)
    print(
        f"{path}: {len(rows)} models. A first look, in minutes: snakemake --cores all --config budget=smoke "
        f"'experiments=[{name}]'; with the models' defaults: budget=laptop."
    )
    return path


def _smoke_spec(module: str) -> dict[str, Any]:
    import importlib

    return dict(importlib.import_module(module).SMOKE)


def _check_name(name: str, what: str, taken: Any) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UserError(f"'{name}' cannot name a {what}: write lower case letters, digits and hyphens.")
    if name in taken:
        raise UserError(f"there is already '{name}': choose another name for the {what}.")
