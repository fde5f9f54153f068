"""Read and check what a person writes: params.yaml and the experiments. Errors show the YAML to write instead."""

import json
import os
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from dgmbench.errors import UserError, nearest
from dgmbench.params import MIRROR_VARIABLE, Params
from dgmbench.schemas import Experiment

OFFLINE_VARIABLE = "DGMBENCH_OFFLINE"
_MAY_BE_LEFT_OUT = ("only", "evaluate", "metrics")  # lists of an experiment that need not be written
Checked = TypeVar("Checked", bound=BaseModel)


def load_params(values: dict[str, Any] | None = None, path: Path = Path("params.yaml")) -> Params:
    """Params from `values` (Snakemake's config) or from params.yaml, with mirror and offline from the environment."""
    if values is None:
        values = read_mapping(path) if path.is_file() else {}
    given = {name: value for name, value in values.items() if value is not None or name not in Params.model_fields}
    params = checked(Params, given, str(path))
    if params.mirror is None and os.environ.get(MIRROR_VARIABLE):
        params = params.model_copy(update={"mirror": os.environ[MIRROR_VARIABLE]})
    if os.environ.get(OFFLINE_VARIABLE, "").lower() in ("1", "true", "yes", "on"):
        params = params.model_copy(update={"offline": True})
    return params


def load_experiments(folder: Path = Path("workflow/experiments")) -> dict[str, Experiment]:
    """Every experiment, found by folder (<paper>/<experiment>.yaml), by name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*/*.yaml")):
        if path.stem in found:
            raise UserError(f"two experiments are called '{path.stem}': rename {path} or {found[path.stem]}.")
        found[path.stem] = path
    if not found:
        raise UserError(f"{folder} holds no experiments: run the command in the project's folder.")
    return {name: checked(Experiment, read_mapping(path), str(path)) for name, path in found.items()}


def experiment_path(name: str, folder: Path = Path("workflow/experiments")) -> Path:
    paths = {path.stem: path for path in folder.glob("*/*.yaml")}
    if name not in paths:
        raise UserError(f"there is no experiment '{name}': {nearest(name, paths)}")
    return paths[name]


class _OnceEach(yaml.SafeLoader):
    """Refuses a mapping that names a key twice: the first value would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key.value}' is written twice; keep one of the two", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[str, Any]:
    try:
        value = yaml.load(path.read_text(), _OnceEach)  # a safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(f"{path}{where} is not YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold 'name: value' lines.")
    return value


def checked(schema: type[Checked], values: Any, where: str) -> Checked:
    """`values` as `schema`, or a `UserError` that names each place and what to write there."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, schema, where)) from None


def explain(error: ValidationError, schema: type[BaseModel], where: str) -> str:
    """A validation error as sentences: the place, what is wrong there, and the YAML to write instead."""
    sentences = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _fields_at(schema, problem["loc"][:-1])
            word = str(problem["loc"][-1])
            hint = nearest(word, known)
            sentences.append(f"{place}: unknown key; {hint}{_yaml_hint(hint, problem['input'])}")
        elif problem["type"] == "missing":
            sentences.append(f"{place}: is missing; write '{problem['loc'][-1]}: ...'.")
        elif problem["type"] == "too_short" and ("grid" in problem["loc"] or problem["loc"][-1] in _MAY_BE_LEFT_OUT):
            sentences.append(f"{place}: has no value; write at least one, or leave '{problem['loc'][-1]}' out.")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = "" if isinstance(problem["input"], (dict, list)) else f" (given: {problem['input']!r})"
            sentence = f"{place + ': ' if place else ''}{message[0].lower() + message[1:]}{given}"
            sentences.append(sentence if sentence.endswith(("?", ".")) else f"{sentence}.")
    return f"{where}: " + "\n  ".join(dict.fromkeys(sentences))


def _yaml_hint(hint: str, value: Any) -> str:
    if not hint.startswith("did you mean '") or isinstance(value, (dict, list)):
        return ""
    spelled = json.dumps(value) if value is None or isinstance(value, bool) else value
    return f" Write '{hint.split(chr(39))[1]}: {spelled}'."


def _fields_at(annotation: Any, location: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the schema that a validation error's location leads to; none where it leads nowhere."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not location:
            return list(annotation.model_fields)
        field = annotation.model_fields.get(location[0])
        return [] if field is None else _fields_at(field.annotation, location[1:])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (dict, list, tuple):
        # The part of the location is a key or an index: the schema is that of the values.
        return _fields_at(arguments[-1], location[1:])
    return next((found for option in arguments if (found := _fields_at(option, location))), [])
