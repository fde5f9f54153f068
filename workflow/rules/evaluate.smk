rule evaluate:
    input:
        manifest=f"{RESULTS}/runs/{{run}}/manifest.json",
        certificate=lambda w: BENCH.evaluation_data(w.run, w.evaluation),
    output:
        numbers=f"{RESULTS}/runs/{{run}}/{{evaluation}}.json",
    log:
        f"{LOGS}/evaluate/{{run}}-{{evaluation}}.log",
    benchmark:
        f"{LOGS}/benchmarks/evaluate/{{run}}-{{evaluation}}.tsv"
    conda:
        "../envs/dgmbench.yaml"
    threads: lambda w: BENCH.plan.threads[w.run]
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        gpu=1 if BENCH.params.device == "cuda" else 0,
    params:
        evaluation=lambda w: BENCH.evaluation(w.evaluation),
        threads=lambda w: BENCH.plan.threads[w.run],
    message:
        "evaluate {wildcards.run} by {wildcards.evaluation}"
    shell:
        "dgmbench evaluate --evaluation {params.evaluation:q} --threads {params.threads} 2>&1 | tee -i {log}"
