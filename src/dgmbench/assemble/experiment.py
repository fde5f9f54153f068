"""Assemble one experiment: its tidy and human tables, figures, paired comparison and provenance."""

from pathlib import Path

from dgmbench.assemble import paired, work
from dgmbench.assemble.earlier import Earlier, read_earlier
from dgmbench.assemble.entries import Entry, build_entries
from dgmbench.assemble.figures.collecting import draw_all, gather
from dgmbench.assemble.ledger import PAIRED_SUFFIX, Record, records, to_csv
from dgmbench.assemble.order import order_cells, order_records
from dgmbench.assemble.outcomes import Archive
from dgmbench.assemble.provenance import provenance
from dgmbench.assemble.tables import row_labels, view
from dgmbench.assemble.tables_text import latex, markdown
from dgmbench.errors import UserError, nearest
from dgmbench.files import write_json, write_text
from dgmbench.layout import Layout
from dgmbench.params import Params
from dgmbench.runs import Plan, make_plan
from dgmbench.schemas import Experiment


def assemble(
    experiment_name: str,
    params: Params,
    experiments: dict[str, Experiment],
    results_root: Path = Path("results"),
    data_root: Path = Path("data"),
    anyway: bool = False,
    only_begun: bool = False,
) -> list[Path]:
    """Write tables, figures and provenance of one experiment below results/<budget>/; return their paths.

    What has not been computed yet, or failed, is a cell with a status and a reason. Where large files were computed
    that are not on this machine, as in a clone into which none was pulled, pictures and paired differences stand as
    they were made from them (`earlier`). Nothing is written where a number of the tables was made by earlier code or
    settings and has not been made again. With `anyway` nothing of what stands counts. With `only_begun` nothing is
    written, and [] returned, where nothing of the experiment has been computed.

    Raises:
        UserError: no such experiment, a published number, a figure or a selection that cannot be found, or numbers
            that would be lost.
    """
    if experiment_name not in experiments:
        raise UserError(f"there is no experiment '{experiment_name}': {nearest(experiment_name, experiments)}")
    results_root, one = Path(results_root), params.model_copy(update={"experiments": [experiment_name]})
    plan = make_plan(one, experiments, results_root / "published")
    layout = Layout(params.budget, results_root.parent)
    if only_begun and not any(layout.evaluation(e.run, e.id).is_file() for e in plan.evaluations.values()):
        return []
    return assemble_plan(experiment_name, experiments[experiment_name], plan, results_root, Path(data_root), anyway)


def assemble_plan(
    name: str,
    experiment: Experiment,
    plan: Plan,
    results_root: Path,
    data_root: Path,
    anyway: bool = False,
) -> list[Path]:
    """`assemble` for a plan that is there already."""
    results = results_root / plan.budget
    archive = Archive(results, data_root)
    entries = build_entries(plan, name, experiment, archive, results_root / "published")
    earlier = Earlier() if anyway else read_earlier(results, name)
    if lost := earlier.lost(entries):
        raise UserError(_not_made_again(name, plan.budget, lost))
    labels = labels_of(entries)
    rows = [*records(entries), *order_records(entries, experiment.orders)]
    orders = order_cells(entries, experiment.orders)
    shown = labels | row_labels(orders.values())
    human = view(rows, shown, experiment.title, caption(experiment, plan.budget), experiment.question)
    differences: list[Record] = []
    if experiment.paired_with is not None and experiment.paired_by is not None:
        differences = paired.paired_records(entries, experiment.paired_with, experiment.paired_by, archive, earlier)
    drawn_from = gather(entries, plan, archive, experiment.title, labels, experiment.figure.name)
    took = work.work_records(entries, archive)
    texts = {
        f"{name}.csv": to_csv(rows),
        f"{name}.md": markdown(human),
        f"{name}.tex": latex(human),
        # Headings alone where nothing is compared: the rules declare the file for every experiment.
        f"{name}{PAIRED_SUFFIX}.csv": to_csv(differences, paired.COLUMNS),
        f"{name}{work.SUFFIX}.csv": to_csv(took, work.COLUMNS),
    }
    written, pictures = draw_all(drawn_from, experiment.figure, results / "figures", name, earlier)
    written.append(results / "provenance" / f"{name}.json")
    write_json(written[-1], provenance(entries, plan, name, experiment, archive, pictures, orders))
    # Last: an experiment that has tables counts as assembled, and the page then asks for all that goes with them.
    for file, text in texts.items():
        written.append(results / "tables" / file)
        write_text(written[-1], text)
    return written


def _not_made_again(name: str, budget: str, lost: list[str]) -> str:
    return (
        f"{name}: {len(lost)} number{'s' if len(lost) > 1 else ''} of its tables (such as {lost[0]}) would be lost, "
        "because code or settings have changed since and nothing has been computed again, so nothing was written: "
        f"`snakemake --cores all --config budget={budget} 'experiments=[{name}]'` makes them; or add --anyway to "
        f"`dgmbench assemble {name}`, and they are pending."
    )


def labels_of(entries: list[Entry]) -> dict[str, str]:
    """Row -> what tables and figures print for it."""
    names = ("row", "label", "dataset", "parameters")
    return row_labels({name: getattr(e, name) for name in names} | {"selected_from": e.selected} for e in entries)


def caption(experiment: Experiment, budget: str) -> str:
    differs = experiment.budgets[budget].differs
    said = f"{experiment.document}; {experiment.source}. Budget {budget}"
    return f"{said}: {differs}." if differs else f"{said}."
