"""What a person starts from: a model's skeleton, the entry of a dataset of one's own, an experiment that tries it.

Each is one file, complete and valid as it is written, to be edited afterwards.
"""

import io
import keyword
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from dgmbench.config import checked
from dgmbench.errors import UserError
from dgmbench.files import write_yaml

FAMILIES_ROOT = Path(__file__).parent / "models"
TEMPLATE = Path(__file__).parent / "templates" / "model.py.txt"
EXPERIMENTS_ROOT = Path("workflow/experiments/mine")
_TABLES = (".npy", ".npz", ".csv", ".csv.gz", ".parquet")
_ARCHIVES = (".zip", ".tgz", ".tar.gz", ".tar")
_SIDE = 32  # longest side of images as they are prepared, unless the options say otherwise


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


def new_dataset(name: str, path: Path, options: dict[str, Any]) -> Path:
    """Write data/catalogue/<name>.yaml for a folder or archive of images, or one array, of the user's own.

    Shape and kind of values are read from the files; `options` wins over what was found.

    Raises:
        UserError: the name is taken or cannot be one, there is nothing that can be read, or an option cannot be.
    """
    from dgmbench.data import catalogue

    _check_name(name, "dataset", catalogue.entries())
    path = Path(path).expanduser().resolve()
    if not path.exists():
        raise UserError(f"there is no {path}: write the path of a folder of images, an archive of them, or one array.")
    entry = {
        "name": name,
        "title": name.replace("-", " ").capitalize(),
        "version": "1",
        "description": f"Made from {path.name}.",
        "licence": "not stated",
        "citation": "not stated",
        "homepage": "none",
    }
    found = _images(name, path) if path.is_dir() or path.name.endswith(_ARCHIVES) else _array(name, path, options)
    document = entry | found | {"options": found["options"] | options}
    written = catalogue.CATALOGUE / f"{name}.yaml"
    try:
        write_yaml(written, document)
        read = catalogue.entry(name)
        key, _, value = catalogue.own_checksum(read, read.files[0]).partition(": ")
        document["files"][0][key] = value
        write_yaml(written, document)
        about = catalogue.describe(catalogue.resolve(name))
    except BaseException:
        written.unlink(missing_ok=True)
        raise
    print(
        f"{written}: {about.values} values, {' x '.join(map(str, about.shape))}. Write its description, licence and "
        f"citation into it; then: dgmbench fetch {name} && dgmbench prepare {name} && dgmbench new experiment "
        f"try-{name} --dataset {name}"
    )
    return written


def _images(name: str, path: Path) -> dict[str, Any]:
    """Loader and file of a folder or archive of images: commonest size; folders are labels where several."""
    from PIL import Image, UnidentifiedImageError

    from dgmbench.data.archives import members
    from dgmbench.data.datasets.images import SUFFIXES, is_image
    from dgmbench.data.folder import matching

    if path.is_dir():
        inside = ((member, file) for member, file in matching(path, "*").items())
    else:
        inside = ((member, io.BytesIO(content)) for member, content in members(path))
    kinds: Counter[tuple[tuple[int, int], str]] = Counter()
    suffixes, folders = set(), set()
    for member, source in inside:
        if not is_image(member):
            continue
        try:
            with Image.open(source) as image:
                kinds[image.size, image.mode] += 1
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: {member} is not an image that can be read ({error}): remove it.") from error
        suffixes.add(PurePosixPath(member).suffix)
        folders.add(PurePosixPath(member).parent)
    if not kinds:
        raise UserError(f"{path} holds no image ({', '.join(SUFFIXES)}): write the path of a folder of images.")
    ((width, height), mode), _ = kinds.most_common(1)[0]
    scale = max(1.0, max(width, height) / _SIDE)
    options = {
        "height": max(1, round(height / scale)),
        "width": max(1, round(width / scale)),
        "colour": mode in ("RGB", "RGBA", "P", "CMYK"),
        "labels": len(folders) > 1,
    }
    if path.is_dir():
        file = {
            "name": f"{name}.zip",
            "path": str(path),
            "members": f"*{suffixes.pop()}" if len(suffixes) == 1 else "*",
        }
    else:
        file = {"name": name + next(end for end in _ARCHIVES if path.name.endswith(end)), "path": str(path)}
    return {"loader": "images", "options": options, "files": [file]}


def _array(name: str, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Loader and file of one array: the shape of a row, and the narrowest kind that its values are of."""
    import numpy as np

    from dgmbench.data.archives import open_bytes
    from dgmbench.data.datasets import array

    ending = next((end for end in _TABLES if path.name.endswith(end)), None)
    if ending is None:
        kinds = ", ".join((*_TABLES, *_ARCHIVES))
        raise UserError(f"{path.name} is neither a folder of images nor one of {kinds}: write the path of one.")
    known = {key: options[key] for key in ("array", "labels", "groups") if key in options}
    asked = checked(array.Options, {"values": "real", "shape": [1], **known}, "--options")
    x, _, _ = array.read(path.name, open_bytes(path), asked)
    if x.ndim < 2 or len(x) == 0:
        raise UserError(f"{path.name} holds {x.shape}: an array of examples has a row for each, (n, ...).")
    scaled = x / options.get("scale", 1.0)
    values = "real"
    if scaled.min() >= 0 and scaled.max() <= 1:
        values = "binary" if bool(np.isin(scaled, (0, 1)).all()) else "unit"
    found = {"values": values, "shape": list(x.shape[1:])}
    return {"loader": "array", "options": found, "files": [{"name": f"{name}{ending}", "path": str(path)}]}


# Settings with which an estimator says something in seconds; its defaults are for numbers that stand in tables.
_QUICK = {"temperatures": 200, "chains": 20, "replicas": 50, "target_sweeps": 50, "k": 50, "samples": 1000}
# What every model can be asked; estimators of anything else are studies of their own.
_LIKELIHOODS = {"log_likelihood", "bound", "parzen_log_likelihood"}


def _first_look(module: Any) -> bool:
    """Whether an estimator says how well any model of its capability fits, or shows what it draws."""
    return not module.METRICS or not _LIKELIHOODS.isdisjoint(module.METRICS)


def new_experiment(name: str, dataset: str) -> Path:
    """Write workflow/experiments/mine/<name>.yaml: every model that accepts the dataset, its samples and its likelihood
    by every estimator it allows.

    Under the budget smoke each model is as small as its tests make it, under laptop it has its defaults.

    Raises:
        UserError: the name is taken or cannot be one, or there is no such dataset.
    """
    from dgmbench.config import checked, load_experiments
    from dgmbench.data import catalogue
    from dgmbench.estimators.registry import estimator, estimator_modules
    from dgmbench.models.registry import model_class, model_modules
    from dgmbench.schemas import Experiment

    _check_name(name, "experiment", load_experiments())
    ref = catalogue.resolve(dataset)
    values, held = catalogue.describe(ref).values, catalogue.splits(ref)
    if "train" not in held:
        raise UserError(
            f"dataset '{dataset}' has no train split, only {', '.join(held)}: no model can be trained on it."
        )
    scored = {"examples": 500} | ({} if "test" in held else {"split": "train"})
    estimators = {e: module for e in estimator_modules() if _first_look(module := estimator(e))}
    rows: dict[str, Any] = {}
    small: dict[str, Any] = {}
    for model in model_modules():
        cls = model_class(model)
        if values in cls.accepts:
            can = [e for e, module in estimators.items() if issubclass(cls, module.REQUIRES)]
            if not can:
                continue
            rows[model] = {"model": model, "evaluate": can}
            small[model] = {"spec": _smoke_spec(model_modules()[model])}
    used = [e for e in estimators if any(e in row["evaluate"] for row in rows.values())]
    quick = {e: {"settings": (scored if estimators[e].METRICS else {}) | _quick(estimators[e])} for e in used}
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


def _quick(module: Any) -> dict[str, Any]:
    """Settings of an estimator that take seconds."""
    return {name: value for name, value in _QUICK.items() if module.METRICS and name in module.Settings.model_fields}


def _smoke_spec(module: str) -> dict[str, Any]:
    import importlib

    return dict(importlib.import_module(module).SMOKE)


def _check_name(name: str, what: str, taken: Any) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UserError(f"'{name}' cannot name a {what}: write lower case letters, digits and hyphens.")
    if name in taken:
        raise UserError(f"there is already '{name}': choose another name for the {what}.")
