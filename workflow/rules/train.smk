rule train:
    input:
        certificate=lambda w: BENCH.training_data(w.run),
    output:
        manifest=f"{RESULTS}/runs/{{run}}/manifest.json",
        spec=f"{RESULTS}/runs/{{run}}/spec.yaml",
        history=f"{RESULTS}/runs/{{run}}/history.csv",
    log:
        f"{LOGS}/train/{{run}}.log",
    benchmark:
        f"{LOGS}/benchmarks/train/{{run}}.tsv"
    retries: 1
    conda:
        "../envs/dgmbench.yaml"
    threads: lambda w: BENCH.plan.threads[w.run] * BENCH.plan.processes[w.run]
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 720 * attempt,
        gpu=1 if BENCH.params.device == "cuda" else 0,
    params:
        run=lambda w: BENCH.run(w.run),
        threads=lambda w: BENCH.plan.threads[w.run],
        launch=lambda w: BENCH.launch(w.run),
    message:
        "train {wildcards.run}"
    shell:
        "{params.launch}dgmbench train --run {params.run:q} --threads {params.threads} 2>&1 | tee -i {log}"
