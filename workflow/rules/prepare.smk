rule prepare:
    input:
        raw=lambda w: BENCH.raw_manifests(w.key),
    output:
        certificate="data/prepared/{key}/certificate.json",
        shown=f"{RESULTS}/datasets/{{key}}.json",
        picture=f"{RESULTS}/datasets/{{key}}.png",
    log:
        f"{LOGS}/prepare/{{key}}.log",
    benchmark:
        f"{LOGS}/benchmarks/prepare/{{key}}.tsv"
    conda:
        "../envs/dgmbench.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=60,
        gpu=0,
    params:
        name=lambda w: BENCH.plan.datasets[w.key].name,
        options=lambda w: BENCH.options(w.key),
    message:
        "prepare {wildcards.key}"
    shell:
        "dgmbench prepare {params.name} --options {params.options:q} --show {output.shown} 2>&1 | tee -i {log}"
