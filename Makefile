# make run: the demo, from nothing to the report.   make test: the tests.   make lint: what CI checks beside them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1

.PHONY: run test lint smoke clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --progress-bar off -e '.[workflow,dev]' -c constraints.txt
	touch $@

run: $(VENV)/installed
	snakemake --cores all

# Files of tests are dealt out to the cores; plain `pytest` runs one after the other.
test: $(VENV)/installed
	pytest -n logical --maxprocesses 8 --dist loadfile

lint: $(VENV)/installed
	ruff check src tests
	ruff format --check src tests
	snakefmt --check Snakefile workflow
	snakemake --lint
	dgmbench schemas --check

smoke: $(VENV)/installed
	snakemake --cores all --config budget=smoke

clean:
	rm -rf work logs .snakemake results/smoke results/demo
