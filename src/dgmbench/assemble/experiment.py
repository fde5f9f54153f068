"""Assemble one experiment: its tidy and human tables, figures, paired comparison and provenance."""

from pathlib import Path

from dgmbench.assemble import paired
from dgmbench.assemble.entries import Entry, build_entries
from dgmbench.assemble.figures.collecting import draw_all, gather
from dgmbench.assemble.ledger import PAIRED_SUFFIX, Record, records, to_csv
from dgmbench.assemble.order import order_records
from dgmbench.assemble.outcomes import Archive
from dgmbench.assemble.provenance import provenance
from dgmbench.assemble.tables import row_labels, view
from dgmbench.assemble.tables_text import latex, markdown
from dgmbench.errors import UserError, nearest
from dgmbench.files import write_json, write_text
from dgmbench.params import Params
from dgmbench.runs import Plan, make_plan
from dgmbench.schemas import Experiment


def assemble(
    experiment_name: str,
    params: Params,
    experiments: dict[str, Experiment],
    results_root: Path = Path("results"),
    data_root: Path = Path("data"),
) -> list[Path]:
    """Write tables, figures and provenance of one experiment below results/<budget>/; return their paths.

    What has not been computed yet, or failed, is a cell with a status and a reason.

    Raises:
        UserError: no such experiment, or a published number, a figure or a selection that cannot be found.
    """
    if experiment_name not in experiments:
        raise UserError(f"there is no experiment '{experiment_name}': {nearest(experiment_name, experiments)}")
    results_root, one = Path(results_root), params.model_copy(update={"experiments": [experiment_name]})
    plan = make_plan(one, experiments, results_root / "published")
    return assemble_plan(experiment_name, experiments[experiment_name], plan, results_root, Path(data_root))


def assemble_plan(name: str, experiment: Experiment, plan: Plan, results_root: Path, data_root: Path) -> list[Path]:
    """`assemble` for a plan that is there already."""
    results = results_root / plan.budget
    archive = Archive(results, data_root)
    entries = build_entries(plan, name, experiment, archive, results_root / "published")
    labels = labels_of(entries)
    rows = [*records(entries), *order_records(entries, experiment.orders)]
    human = view(rows, labels, experiment.title, caption(experiment, plan.budget))
    differences: list[Record] = []
    if experiment.paired_with is not None and experiment.paired_by is not None:
        differences = paired.paired_records(entries, experiment.paired_with, experiment.paired_by, archive)
    texts = {
        f"{name}.csv": to_csv(rows),
        f"{name}.md": markdown(human),
        f"{name}.tex": latex(human),
        # Headings alone where nothing is compared: the rules declare the file for every experiment.
        f"{name}{PAIRED_SUFFIX}.csv": to_csv(differences, paired.COLUMNS),
    }
    written = draw_all(
        gather(entries, plan, archive, experiment.title, labels), experiment.figure, results / "figures", name
    )
    written.append(results / "provenance" / f"{name}.json")
    write_json(written[-1], provenance(entries, plan, name, experiment, archive))
    # Last: an experiment that has tables counts as assembled, and the page then asks for all that goes with them.
    for file, text in texts.items():
        written.append(results / "tables" / file)
        write_text(written[-1], text)
    return written


def labels_of(entries: list[Entry]) -> dict[str, str]:
    """Row -> what tables and figures print for it."""
    return row_labels(
        (e.row, e.label, {**_dataset_in(e), **({} if e.selected or not e.parameters else e.parameters)})
        for e in entries
    )


def _dataset_in(entry: Entry) -> dict[str, str]:
    """The dataset, where the row's identity names it because the experiment has several."""
    return {"dataset": entry.dataset} if f"dataset={entry.dataset}" in entry.row.split() else {}


def caption(experiment: Experiment, budget: str) -> str:
    differs = experiment.budgets[budget].differs
    said = f"{experiment.document}; {experiment.source}. Budget {budget}"
    return f"{said}: {differs}." if differs else f"{said}."
