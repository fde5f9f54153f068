rule assemble:
    input:
        results=lambda w: BENCH.results_of(w.experiment),
        experiment=lambda w: BENCH.experiment_file(w.experiment),
        published=lambda w: BENCH.published_of(w.experiment),
    output:
        # Not removed before: what was made from files that are no longer here goes on standing.
        tables=[
            update(f"{RESULTS}/tables/{{experiment}}{end}") for end in TABLE_FORMATS
        ],
        figures=[update(f"{RESULTS}/figures/{{experiment}}{f}.svg") for f in FIGURES],
        provenance=update(f"{RESULTS}/provenance/{{experiment}}.json"),
    log:
        f"{LOGS}/assemble/{{experiment}}.log",
    benchmark:
        f"{LOGS}/benchmarks/assemble/{{experiment}}.tsv"
    conda:
        "../envs/dgmbench.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    params:
        code=lambda w: [BENCH.assemble_code, BENCH.figure_code(w.experiment)],
        contents=lambda w: BENCH.contents(w.experiment),
    message:
        "assemble {wildcards.experiment}"
    shell:
        "dgmbench assemble {wildcards.experiment} 2>&1 | tee -i {log}"
