# `make` alone lists what there is. Every target makes the environment when it is needed.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# An environment of its own: Sphinx shares no pins with the tests.
DOCS := $(VENV)/docs
JOBS ?= 4

.DEFAULT_GOAL := help
.PHONY: help setup check test simulate planted proof demo bench docs requirements clean format

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with everything in it (pinned, by hash)

$(READY): requirements/dev.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "resmeter needs Python 3.11 or newer: make PYTHON=python3.12 setup"; exit 2; }
	@echo "Installing into $(VENV) (about a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

check: $(READY) ## types, lint, import rules, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

test: $(READY) ## all tests, on a real Kafka and a real PostgreSQL (no Docker needed)
	@$(BIN)/resmeter kafka --fetch  # now, as the tests themselves reach nothing but loopback
	$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),--numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder)

simulate: $(READY) ## random faults in memory, held to every property; SEEDS=1000 FIRST=0
	@$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST),--first $(FIRST))

planted: $(READY) ## plant real bugs one at a time: the simulator must find each
	@$(BIN)/python -m tests.simulation.bugs

proof: $(READY) ## the matrix of faults on real processes; ROWS="zombie scale" EVENTS=200000 WRITE=1
	@$(BIN)/python -m tests.proof $(ROWS) $(if $(EVENTS),--events $(EVENTS)) $(if $(WRITE),--write)

demo: $(READY) ## the whole pipeline over 200 recorded conversations; KEEP=1 leaves it up
	@$(BIN)/resmeter demo $(if $(KEEP),--keep)

bench: $(READY) ## speed, as a ratio to a bare consumer; EVENTS=2000000
	@$(BIN)/python -m benchmarks.bench $(if $(EVENTS),--events $(EVENTS))

docs: $(DOCS)/.ready ## build the documentation as a site; broken links fail
	@$(DOCS)/bin/sphinx-build -q -n -W --keep-going -d $(DOCS)/doctrees docs dist/docs
	@echo "dist/docs/index.html"

$(DOCS)/.ready: requirements/docs.txt
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/docs.txt
	@touch $@

format: $(READY) ## let ruff write the code's form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

requirements: $(READY) ## pin all dependencies again, with hashes
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --extra local --upgrade pyproject.toml -o requirements/main.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --extra local --group dev -c requirements/main.txt --upgrade pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --group docs --upgrade -o requirements/docs.txt

clean: ## remove the environment and what runs left behind
	rm -rf $(VENV) dist/docs .resmeter .mypy_cache .ruff_cache .hypothesis
