rule fetch:
    output:
        manifest="data/raw/{dataset}/manifest.json",
    log:
        f"{LOGS}/fetch/{{dataset}}.log",
    benchmark:
        f"{LOGS}/benchmarks/fetch/{{dataset}}.tsv"
    conda:
        "../envs/dgmbench.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
        gpu=0,
    params:
        files=lambda w: BENCH.fetch_identity(w.dataset),
    message:
        "fetch {wildcards.dataset}"
    shell:
        "dgmbench fetch {wildcards.dataset} 2>&1 | tee -i {log}"
