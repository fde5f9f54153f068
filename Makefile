# make help: what can be made.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1

.PHONY: help run test lint smoke clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --progress-bar off -e '.[workflow,dev]' -c constraints.txt
	touch $@

help: ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/installed ## The demo, from nothing to the report.
	snakemake --cores all

# Files of tests are dealt out to the cores; plain `pytest` runs one after the other.
test: $(VENV)/installed ## The tests, on all cores.
	pytest -n logical --maxprocesses 8 --dist loadfile

lint: $(VENV)/installed ## What CI checks beside the tests.
	ruff check src tests
	ruff format --check src tests
	snakefmt --check Snakefile workflow
	snakemake --lint
	dgmbench schemas --check

smoke: $(VENV)/installed ## The smallest budget, as CI runs it.
	snakemake --cores all --config budget=smoke

clean: ## Remove scratch files and the results of smoke and demo.
	rm -rf work logs .snakemake results/smoke results/demo
