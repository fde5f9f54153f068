"""Assemble one experiment: its tidy and human tables, figures, paired comparison and provenance."""

from pathlib import Path

from dgmbench.assemble import paired
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
from dgmbench.params import Params
from dgmbench.runs import Plan, make_plan
from dgmbench.schemas import Experiment


def assemble(
    experiment_name: str,
    params: Params,
    experiments: dict[str, Experiment],
    results_root: Path = Path("results"),
    data_root: Path = Path("data"),
    without_files: bool = False,
) -> list[Path]:
    """Write tables, figures and provenance of one experiment below results/<budget>/; return their paths.

    What has not been computed yet, or failed, is a cell with a status and a reason. Large files that were computed and
    are not on this machine are another matter, as in a clone into which none was pulled: figures and paired differences
    made without them would take the place of better ones. So nothing is written where any is missing, unless
    `without_files` is set: then what would be made from them says so instead.

    Raises:
        UserError: no such experiment, a published number, a figure or a selection that cannot be found, or large files
            that are not here.
    """
    if experiment_name not in experiments:
        raise UserError(f"there is no experiment '{experiment_name}': {nearest(experiment_name, experiments)}")
    results_root, one = Path(results_root), params.model_copy(update={"experiments": [experiment_name]})
    plan = make_plan(one, experiments, results_root / "published")
    return assemble_plan(
        experiment_name, experiments[experiment_name], plan, results_root, Path(data_root), without_files
    )


def assemble_plan(
    name: str,
    experiment: Experiment,
    plan: Plan,
    results_root: Path,
    data_root: Path,
    without_files: bool = False,
) -> list[Path]:
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
    drawn_from = gather(entries, plan, archive, experiment.title, labels)
    if archive.absent and not without_files:
        raise UserError(_absent(name, plan.budget, archive.absent))
    texts = {
        f"{name}.csv": to_csv(rows),
        f"{name}.md": markdown(human),
        f"{name}.tex": latex(human),
        # Headings alone where nothing is compared: the rules declare the file for every experiment.
        f"{name}{PAIRED_SUFFIX}.csv": to_csv(differences, paired.COLUMNS),
    }
    written = draw_all(drawn_from, experiment.figure, results / "figures", name)
    written.append(results / "provenance" / f"{name}.json")
    cells = order_cells(entries, experiment.orders)
    write_json(written[-1], provenance(entries, plan, name, experiment, archive, cells))
    # Last: an experiment that has tables counts as assembled, and the page then asks for all that goes with them.
    for file, text in texts.items():
        written.append(results / "tables" / file)
        write_text(written[-1], text)
    return written


def _absent(name: str, budget: str, absent: list[Path]) -> str:
    files = f"{len(absent)} file{'s' if len(absent) > 1 else ''} (such as {absent[0]})"
    return (
        f"{name}: {files} that its figures and paired differences are made from are not on this machine, so nothing "
        f"was written: `dgmbench restore --budget {budget}` pulls them where a DVC remote has them; or remove the "
        f".json of their evaluations below results/{budget}/runs, and `snakemake` makes them again; or add "
        f"--without-files to `dgmbench assemble {name}`, and what is made from them says that they are missing."
    )


def labels_of(entries: list[Entry]) -> dict[str, str]:
    """Row -> what tables and figures print for it."""
    names = ("row", "label", "dataset", "parameters")
    return row_labels({name: getattr(e, name) for name in names} | {"selected_from": e.selected} for e in entries)


def caption(experiment: Experiment, budget: str) -> str:
    differs = experiment.budgets[budget].differs
    said = f"{experiment.document}; {experiment.source}. Budget {budget}"
    return f"{said}: {differs}." if differs else f"{said}."
