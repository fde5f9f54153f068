rule report:
    input:
        tables=[f"{RESULTS}/tables/{name}.csv" for name in BENCH.plan.experiments],
        provenance=[
            f"{RESULTS}/provenance/{name}.json" for name in BENCH.plan.experiments
        ],
        datasets=[f"{RESULTS}/datasets/{key}.json" for key in BENCH.plan.datasets],
        cards=[str(path) for path in sorted(Path("results/datasets").glob("*.json"))],
    output:
        ledger=f"{RESULTS}/ledger.csv",
        summary=f"{RESULTS}/ledger.md",
        metrics=f"{RESULTS}/metrics.json",
        page=f"{RESULTS}/report/index.html",
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{LOGS}/benchmarks/report.tsv"
    conda:
        "../envs/dgmbench.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    params:
        code=lambda w: BENCH.report_code,
        contents=BENCH.plan.experiments,
    message:
        "report on {BUDGET}"
    shell:
        "dgmbench report 2>&1 | tee -i {log}"
