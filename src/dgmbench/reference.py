"""Written from the schemas, never by hand: params.yaml's defaults, JSON Schema files and the reference page.

`dgmbench schemas` writes them; a test fails with a diff where they no longer agree with the schemas.
"""

import difflib
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from dgmbench.assemble.published import caveat
from dgmbench.errors import UserError
from dgmbench.files import write_text
from dgmbench.params import Params
from dgmbench.schemas import (
    BudgetPlan,
    DatasetUse,
    EvaluationChange,
    EvaluationPlan,
    Experiment,
    FigurePlan,
    OrderPlan,
    PublishedCell,
    Row,
    RowChange,
    Select,
)

README = Path("README.md")
LEDGER = Path("results/laptop/ledger.csv")
EXPERIMENT_PARTS: dict[str, type[BaseModel]] = {
    "A row: `rows`": Row,
    "A published number of a row: `published`": PublishedCell,
    "A selection among rows: `select`": Select,
    "An evaluation: `evaluations`": EvaluationPlan,
    "An order of rows: `orders`": OrderPlan,
    "The figure: `figure`": FigurePlan,
    "A budget: `budgets`": BudgetPlan,
    "A dataset of a budget: `datasets`": DatasetUse,
    "A change to a row under a budget: `rows` and `every_row`": RowChange,
    "A change to an evaluation under a budget: `evaluations`": EvaluationChange,
}
LEDGER_BLOCK = re.compile(r"(<!-- ledger:begin[^>]*-->\n).*?(<!-- ledger:end -->)", re.DOTALL)
HEADING = "<!-- Written by `dgmbench schemas` from the schemas: edit those. -->"


def generated() -> dict[Path, str]:
    """Path -> content of every generated file."""
    from dgmbench.data.catalogue import Entry

    schemas = {"params": Params, "experiment": Experiment, "dataset": Entry}
    files = {
        Path(f"docs/schemas/{name}.schema.json"): json.dumps(schema.model_json_schema(), indent=1) + "\n"
        for name, schema in schemas.items()
    }
    files[Path("docs/reference.md")] = "\n".join(_reference()) + "\n"
    files[Path("docs/params.default.yaml")] = _default_params()
    files[README] = _readme(README.read_text())
    return files


def write(check: bool) -> None:
    """Write the generated files, or only compare them.

    Raises:
        UserError: with `check`, where a file differs; the message shows the difference.
    """
    differences = []
    for path, content in generated().items():
        found = path.read_text() if path.is_file() else ""
        if found == content:
            continue
        if check:
            differences += difflib.unified_diff(
                found.splitlines(), content.splitlines(), str(path), "from the schemas", n=1, lineterm=""
            )
        else:
            write_text(path, content)
            print(f"wrote {path}")
    if differences:
        raise UserError("generated files differ from the schemas; run 'dgmbench schemas'.\n" + "\n".join(differences))


def _readme(text: str) -> str:
    """README.md with its table of numbers replaced by the ledger's rows that have a published value."""
    rows = _ledger_rows() if LEDGER.is_file() else []
    return LEDGER_BLOCK.sub(lambda found: found[1] + "\n".join([*rows, ""]) + found[2], text)


def _ledger_rows() -> Iterator[str]:
    import pandas as pd

    ledger = pd.read_csv(LEDGER, keep_default_na=False, dtype=str)
    compared = ledger[(ledger["published"] != "") & (ledger["obtained"] != "")]
    # A metric of a row that is obtained in several ways says by which column.
    compared = compared.assign(several=compared.duplicated(["experiment", "row", "dataset", "metric"], keep=False))
    yield "| dataset | experiment: row | what | obtained | published | verdict |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in compared.to_dict("records"):
        uncertainty = "; ".join(
            f"{name} {float(row[column]):.2g}"
            for column, name in (("test_se", "test s.e."), ("estimator_se", "estimator s.e."), ("seed_sd", "seed s.d."))
            if row[column] not in ("", "0.0", "0")
        )
        what = f"{row['metric'].replace('_', ' ')} ({row['kind']}, {row['unit']})"
        seeds = f"{row['n_seeds']} seed{'s' if str(row['n_seeds']) != '1' else ''}"
        obtained = f"{float(row['obtained']):.2f} ({'; '.join(filter(None, [uncertainty, seeds]))})"
        chosen = "" if row["variant"] in row["row"] else f" ({row['variant']})"
        name = f"{row['experiment']}: `{row['row']}`{chosen}" + (f", {row['column']}" if row["several"] else "")
        published = f"{float(row['published']):.2f}" + (
            f" ± {float(row['published_spread']):.2g}" if row["published_spread"] != "" else ""
        )
        said = caveat(row["published_protocol"])
        published += f" ({said})" if said else ""
        verdict = row["verdict"] + ("" if row["status"] == "done" else f" ({row['status']})")
        yield f"| {row['dataset']} | {name} | {what} | {obtained} | {published} | {verdict} |"


def _default_params() -> str:
    lines = ["# Every setting with its default: copy what you change into params.yaml.", ""]
    for name, field in Params.model_fields.items():
        value = yaml.safe_dump({name: field.default}, default_flow_style=False).strip()
        lines += [f"# {field.description}", value, ""]
    return "\n".join(lines)


def _reference() -> Iterator[str]:
    yield HEADING
    yield "\n# Reference\n"
    yield "\n## params.yaml\n"
    yield from _fields(Params)
    yield "\n## Experiments: workflow/experiments/&lt;paper&gt;/&lt;experiment&gt;.yaml\n"
    yield from _fields(Experiment)
    for title, schema in EXPERIMENT_PARTS.items():
        yield f"\n### {title}\n"
        yield _summary(schema.__doc__) + "\n"
        yield from _fields(schema)
    yield "\n## Figures: `name` and `options` of an experiment's figure\n"
    yield from _figures()
    yield "\n## Models\n"
    yield from _models()
    yield "\n## Estimators\n"
    yield from _estimators()
    yield "\n## Datasets\n"
    yield from _datasets()
    yield "\n## Loaders: `loader` and `options` of a dataset's entry\n"
    yield from _loaders()


def _figures() -> Iterator[str]:
    from dgmbench.assemble.figures.registry import figure, figure_modules

    for name in figure_modules():
        module = figure(name)
        yield f"\n### {name}\n"
        yield _summary(module.__doc__) + "\n"
        yield from _fields(module.Options) if module.Options.model_fields else ["No options."]


def _models() -> Iterator[str]:
    from dgmbench.models.base import capabilities
    from dgmbench.models.registry import model_class, model_modules

    for name, module in model_modules().items():
        cls = model_class(name)
        yield f"\n### {name}\n"
        yield _summary(importlib.import_module(module).__doc__)
        yield f"\nCapabilities: {', '.join(capabilities(cls))}. Values: {', '.join(sorted(cls.accepts))}.\n"
        yield from _fields(cls.Spec)


def _estimators() -> Iterator[str]:
    from dgmbench.estimators.registry import estimator, estimator_modules

    for name, path in estimator_modules().items():
        module = estimator(name)
        yield f"\n### {name}\n"
        yield _summary(importlib.import_module(path).__doc__)
        yield f"\nAsks for {module.REQUIRES.__name__}.\n"
        for metric, about in module.METRICS.items():
            yield f"- `{metric}` ({about.unit}, kind {about.kind}, better: {about.better}): {about.description}"
        yield ""
        yield from _fields(module.Settings)


def _datasets() -> Iterator[str]:
    from dgmbench.data.catalogue import describe, entries, loader, resolve

    for name, entry in entries().items():
        about = describe(resolve(name, {}))
        yield f"\n### {name}\n"
        yield f"{entry.title}. {entry.description}".strip()
        yield f"\n{about.values} values, shape {'x'.join(map(str, about.shape))}. Licence: {entry.licence}. "
        yield f"Source: {entry.citation}\n"
        yield from _fields(loader(entry.loader).Options, entry.options)


def _loaders() -> Iterator[str]:
    from dgmbench.data import datasets
    from dgmbench.data.catalogue import loader

    for module in sorted(path.stem for path in Path(datasets.__file__).parent.glob("[a-z]*.py")):
        yield f"\n### {module}\n"
        yield _summary(loader(module).__doc__) + "\n"
        yield from _fields(loader(module).Options)


def _summary(documentation: str | None) -> str:
    return " ".join((documentation or "").strip().split("\n\n")[0].split())


def _fields(schema: type[BaseModel], overrides: dict[str, Any] | None = None) -> Iterator[str]:
    yield "| name | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    properties = schema.model_json_schema().get("properties", {})
    for name, field in schema.model_fields.items():
        if field.is_required():
            default = "required"
        else:
            default = f"`{json.dumps(_plain(field.get_default(call_default_factory=True)), default=str)}`"
        if overrides and name in overrides:
            default = f"`{json.dumps(overrides[name])}`"
        yield f"| `{name}` | {_type(properties.get(name, {}))} | {default} | {_cell(field.description)} |"


def _plain(default: Any) -> Any:
    """A default as YAML writes it: of a schema what differs from its own defaults, nothing as a rule."""
    return default.model_dump(exclude_defaults=True) if isinstance(default, BaseModel) else default


def _type(prop: dict[str, Any]) -> str:
    if "anyOf" in prop:
        return " or ".join(dict.fromkeys(_type(option) for option in prop["anyOf"]))
    if "$ref" in prop:
        return prop["$ref"].rsplit("/", 1)[1]
    if "enum" in prop:
        return " or ".join(f"`{value}`" for value in prop["enum"])
    if "const" in prop:
        return f"`{prop['const']}`"
    kind = str(prop.get("type", "any"))
    if kind == "array":
        return f"list of {_type(prop.get('items', {}))}"
    if kind == "object" and isinstance(prop.get("additionalProperties"), dict):
        return f"mapping to {_type(prop['additionalProperties'])}"
    bounds = [
        f"{sign} {prop[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in prop
    ]
    return " ".join([kind, *bounds])


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")
