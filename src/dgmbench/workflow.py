"""What the Snakefile asks of the package: the plan, and the arguments of each job as the command line takes them."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from dgmbench.config import OFFLINE_VARIABLE, experiment_path, load_experiments, load_params
from dgmbench.data import catalogue
from dgmbench.errors import UserError
from dgmbench.files import sha256_file, short_hash
from dgmbench.fingerprint import code_fingerprint
from dgmbench.layout import Layout, check_format
from dgmbench.params import MIRROR_VARIABLE, Params
from dgmbench.runs import Plan, make_plan
from dgmbench.schemas import Experiment

SHORT_BUDGETS = ("smoke", "demo")  # most of their steps take less time than what they import
FEW_STEPS = 4  # that are done before a process with all imports would be ready
LEAST_FREE_GB = 2.0  # below this much free disk no work is started

FIGURES = ("", "-samples", "-training")
TABLE_FORMATS = (".csv", ".md", ".tex", "-paired.csv", "-work.csv")


class Workflow:
    """Everything that the rules look up, checked before the DAG is built."""

    def __init__(self, config: dict[str, Any], *, forced: Callable[[], bool] = lambda: False):
        """`forced` tells whether jobs that are done are asked for again, so that they need their inputs."""
        self.forced = forced
        self.params: Params = load_params(config)
        self.experiments: dict[str, Experiment] = load_experiments()
        self.layout = Layout(self.params.budget)
        self.plan: Plan = make_plan(self.params, self.experiments, self.layout.published)
        check_format(self.layout.results)
        check_free_disk()
        for name, value in self.environment().items():
            if value is None:
                os.environ.pop(name, None)  # the jobs must not take from the shell what the plan was made without
            else:
                os.environ[name] = str(value)

    def environment(self) -> dict[str, Any]:
        """How each job's command line learns what was asked of Snakemake, without being a parameter of its rule.

        A parameter that changes asks for the job again; none of these changes what a finished job wrote.
        """
        params = self.params
        return {
            "DGMBENCH_BUDGET": params.budget,
            "DGMBENCH_SEEDS": params.seeds,
            "DGMBENCH_ONLY": None if params.experiments == "all" else " ".join(params.experiments),
            "DGMBENCH_CHECKPOINT_SECONDS": params.checkpoint_seconds,
            OFFLINE_VARIABLE: int(params.offline),
            MIRROR_VARIABLE: ",".join(params.mirrors) or None,
        }

    def raw_manifests(self, key: str) -> list[str]:
        """What a dataset is prepared from."""
        name = self.plan.datasets[key].name
        raw = [f"data/raw/{name}/manifest.json"] if catalogue.entry(name).files else []
        return self._unless_done(raw, prepared_certificate(key), self.layout.certificate(key))

    def fetch_identity(self, name: str) -> str:
        return short_hash([file.model_dump(mode="json") for file in catalogue.entry(name).files])

    def options(self, key: str) -> str:
        return json.dumps(self.plan.datasets[key].options)

    def run(self, run: str) -> str:
        return json.dumps(self.plan.runs[run].document)

    def launch(self, run: str) -> str:
        """What goes before the train verb: torchrun, where several processes train the run together."""
        processes = self.plan.processes[run]
        return f"torchrun --standalone --nproc-per-node {processes} --no-python -- " if processes > 1 else ""

    def evaluation(self, evaluation: str) -> str:
        return json.dumps(asdict(self.plan.evaluations[evaluation]))

    def training_data(self, run: str) -> list[str]:
        """What a run is trained on."""
        data = [prepared_certificate(self.plan.runs[run].dataset_key)]
        return self._unless_done(data, self.layout.manifest(run))

    def evaluation_data(self, run: str, evaluation: str) -> list[str]:
        """What a run is evaluated on."""
        data = [prepared_certificate(self.plan.runs[run].dataset_key)]
        return self._unless_done(data, self.layout.evaluation(run, evaluation))

    def _unless_done(self, inputs: list[str], *outputs: str | Path) -> list[str]:
        """A job's inputs, or none where its outputs are there: their identity says what they were made from.

        So data that were prepared again, or are not here, train nothing again. Snakemake's `ancient` says the same
        only of inputs that exist, and where they are being made again it also drops jobs that were never done.
        """
        return inputs if self.forced() or not all(Path(path).is_file() for path in outputs) else []

    def results_of(self, experiment: str) -> list[str]:
        """The small files that an experiment's tables are made from."""
        evaluations = [self.plan.evaluations[e] for e in self.plan.evaluations_of(experiment)]
        runs = dict.fromkeys(e.run for e in evaluations)
        found = [*map(self.layout.manifest, runs), *(self.layout.evaluation(e.run, e.id) for e in evaluations)]
        return [str(path) for path in found]

    @cached_property
    def results(self) -> list[str]:
        """The small files of every run and evaluation that is planned."""
        return list(dict.fromkeys(path for name in self.plan.experiments for path in self.results_of(name)))

    def assembled(self, experiment: str) -> list[Path]:
        """What `assemble` writes for an experiment."""
        results = self.layout.results
        tables = [results / "tables" / f"{experiment}{end}" for end in TABLE_FORMATS]
        figures = [results / "figures" / f"{experiment}{end}.svg" for end in FIGURES]
        return [*tables, *figures, results / "provenance" / f"{experiment}.json"]

    @property
    def reported(self) -> list[Path]:
        """What `report` writes."""
        return [self.layout.results / name for name in ("ledger.csv", "ledger.md", "metrics.json", "report/index.html")]

    def date_back(self) -> None:
        """Give what was assembled around missing results the oldest time stamp: it is to be made again."""
        for path in [*self.reported, *(p for name in self.plan.experiments for p in self.assembled(name))]:
            if path.is_file():
                os.utime(path, (1, 1))

    def published_of(self, experiment: str) -> list[str]:
        rows = self.experiments[experiment].rows.values()
        names = dict.fromkeys(cell.file for row in rows for cell in row.published)
        return [f"results/published/{name}.csv" for name in names]

    def contents(self, experiment: str) -> str:
        """Of which results an experiment's tables are made: changes where a row is added or left out."""
        return short_hash(self.results_of(experiment))

    def experiment_file(self, experiment: str) -> str:
        return str(experiment_path(experiment))

    @cached_property
    def report_code(self) -> str:
        """Of the page's code and of its template, style and script."""
        page = sorted((Path(__file__).parent / "report").glob("*.*"))
        return short_hash([code_fingerprint("dgmbench.report.site"), [sha256_file(path) for path in page]])

    @cached_property
    def assemble_code(self) -> str:
        return code_fingerprint("dgmbench.assemble.experiment")

    def figure_code(self, experiment: str) -> str:
        return code_fingerprint(f"dgmbench.assemble.figures.{self.experiments[experiment].figure.name}")


def prepared_certificate(key: str) -> str:
    return f"data/prepared/{key}/certificate.json"


def asked_again(dag_settings: Any) -> bool:
    """Whether --forceall or --forcerun asks Snakemake for jobs that are done (known once it has read the rules)."""
    return dag_settings.forceall or bool({"fetch", "prepare", "train", "evaluate"} & set(dag_settings.forcerun))


def short_steps(budget: str, dag: Any) -> bool:
    """Whether a process that has its imports done (`dgmbench.warm`) would save the steps to do more than it takes."""
    return budget in SHORT_BUDGETS and sum(1 for _ in dag.needrun_jobs()) > FEW_STEPS


def stopped_by_hand(logs: list[str]) -> bool:
    """Whether a person ended Snakemake, by what its own log files say."""
    return any("Terminating processes on user request" in Path(log).read_text(errors="replace") for log in logs)


def check_free_disk(folder: str = ".") -> None:
    """Refuse to start where the disk is almost full.

    Raises:
        UserError: less than `LEAST_FREE_GB` is free.
    """
    free = shutil.disk_usage(folder).free / 1e9
    if free < LEAST_FREE_GB:
        raise UserError(
            f"only {free:.1f} GB of disk is free, and at least {LEAST_FREE_GB:.0f} GB is needed to start: make room, "
            "for example by removing work/ or the data/prepared folders that no longer belong to a dataset."
        )
