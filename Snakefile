# One direction, files between rooms: fetch -> prepare -> train -> evaluate -> assemble -> report.
# The plan (which runs, which evaluations, which cells) is made and checked by the package before the DAG is built.

from pathlib import Path

from snakemake.exceptions import WorkflowError

from dgmbench import warm
from dgmbench.errors import UserError
from dgmbench.workflow import (
    FIGURES,
    TABLE_FORMATS,
    Workflow,
    asked_again,
    prepared_certificate,
    short_steps,
    stopped_by_hand,
)


configfile: "params.yaml"


try:
    BENCH = Workflow(config, forced=lambda: asked_again(workflow.dag_settings))
except UserError as error:
    raise WorkflowError(str(error))

BUDGET = BENCH.params.budget
RESULTS = f"results/{BUDGET}"
LOGS = f"logs/{BUDGET}"


wildcard_constraints:
    dataset="[a-z0-9-]+",
    key="[a-z0-9-]+",
    run="[0-9a-f]{12}",
    evaluation="[0-9a-f]{12}",
    experiment="[a-z0-9-]+",


localrules:
    all,
    datasets,
    runs,


include: "workflow/rules/fetch.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/assemble.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"{RESULTS}/report/index.html",
        f"{RESULTS}/ledger.csv",
        # Asked for by name: Snakemake does not miss what only lies in between.
        BENCH.results,


rule datasets:
    input:
        [f"{RESULTS}/datasets/{key}.json" for key in BENCH.plan.datasets],
        [prepared_certificate(key) for key in BENCH.plan.datasets],


rule runs:
    input:
        BENCH.results,


onstart:
    if workflow.local_exec and short_steps(BUDGET, workflow.dag):
        warm.start()


onsuccess:
    page = Path(f"{RESULTS}/report/index.html")
    if page.is_file():
        print(f"\nReport: {page}\nLedger: {RESULTS}/ledger.csv")


onerror:
    # A job that could not end (killed, out of memory, no data) must not cost the cells that did.
    if workflow.touch:
        pass  # `restore` was stopped: nothing was made, and nothing is to be made of it
    elif stopped_by_hand(log):
        print("\nStopped: what was done is kept, and the same command continues.")
    else:
        try:
            shell("(dgmbench assemble --all || true) && dgmbench report --present")
        finally:
            BENCH.date_back()
        print(
            f"\nSome jobs failed; the report shows what is there: {RESULTS}/report/index.html"
        )
