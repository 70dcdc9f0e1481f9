# `make` alone lists the targets. Each target makes the environment it needs. For a second Python:
# make PYTHON=python3.13 VENV=.venv-3.13 test
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The documentation has its own environment, because Sphinx is pinned apart from the tests.
DOCS := $(VENV)/docs
JOBS ?= 4
PROFILE ?= long

.DEFAULT_GOAL := help
.PHONY: help setup check hooks unit test properties simulate planted proof demo bench soak recovery docs requirements clean format

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with all packages, pinned by hash; PYTHON=python3.13 VENV=.venv-3.13

$(READY): requirements/dev.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "resmeter needs Python 3.11 or newer: make PYTHON=python3.12 setup"; exit 2; }
	@echo "Installing into $(VENV) (about a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

check: $(READY) ## check format, lint, types, import rules and spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

hooks: $(READY) ## let git run what `make check` runs before each commit
	$(BIN)/pre-commit install

unit: $(READY) ## run tests/unit and the contracts of sink and emulator: no servers, about half a minute; ARGS="-k handoff"
	@$(BIN)/python -m tests.support.promtool
	$(BIN)/python -m pytest tests/unit tests/contract/test_emulator.py tests/contract/test_sink.py --numprocesses=2 --dist=worksteal $(ARGS)

test: $(READY) ## run all tests on a real Kafka and a real PostgreSQL (no Docker needed); JOBS=4 ARGS="tests/kafka -n 0"
	@$(BIN)/resmeter kafka --fetch  # before the tests, because a test may connect to loopback only
	@$(BIN)/python -m tests.support.promtool
	@$(BIN)/python -m tests.support.stripe_mock
	$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),--numprocesses=$(JOBS) --dist=loadgroup --no-loadscope-reorder)

properties: $(READY) ## run the property tests with 5,000 examples each; PROFILE=fresh for 100; SEED=1234 ARGS="-k plan"
	@seed=$(or $(SEED),$$RANDOM); \
	echo "examples by the seed $$seed: to draw them again, make properties PROFILE=$(PROFILE) SEED=$$seed"; \
	HYPOTHESIS_PROFILE=$(PROFILE) $(BIN)/python -m pytest tests/properties --hypothesis-seed=$$seed --numprocesses=$(JOBS) $(ARGS)

simulate: $(READY) ## simulate random faults in memory, and check every property; SEEDS=1000 FIRST=0 WORLD=months
	@$(BIN)/python -m tests.simulation $(if $(WORLD),--world $(WORLD)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST),--first $(FIRST))

planted: $(READY) ## plant real bugs one at a time: the simulator must find each
	@$(BIN)/python -m tests.simulation.bugs

proof: $(READY) ## run the matrix of faults on real processes; ROWS="zombie scale" EVENTS=200000 WRITE=1
	@$(BIN)/python -m tests.proof $(ROWS) $(if $(EVENTS),--events $(EVENTS)) $(if $(WRITE),--write)

demo: $(READY) ## run the whole pipeline over 200 sample conversations; KEEP=1 leaves it running
	@$(BIN)/resmeter demo $(if $(KEEP),--keep)

bench: $(READY) ## measure events per second, compared with a bare consumer; EVENTS=2000000
	@$(BIN)/python -m benchmarks.bench $(if $(EVENTS),--events $(EVENTS))

docs: $(DOCS)/.ready ## build the documentation as a site; broken links fail
	@$(DOCS)/bin/sphinx-build -q -n -W --keep-going -d $(DOCS)/doctrees docs dist/docs
	@echo "dist/docs/index.html"

$(DOCS)/.ready: requirements/docs.txt
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/docs.txt
	@touch $@

soak: $(READY) ## run worker and sink under a steady load for an hour; ARGS="--minutes 5 --rate 10000 --out soak"
	@$(BIN)/python -m benchmarks.soak $(ARGS)

recovery: $(READY) ## measure how long a worker takes to start and to take over; ARGS="--conversations 100000"
	@$(BIN)/python -m benchmarks.recovery $(ARGS)

format: $(READY) ## format the code, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

requirements: $(READY) ## pin the newest version of every dependency, with hashes
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --extra local --extra msk --upgrade pyproject.toml -o requirements/main.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --extra local --extra msk --group dev -c requirements/main.txt --upgrade pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --group docs --upgrade -o requirements/docs.txt

clean: ## remove the environments and the caches
	rm -rf $(VENV) .venv-* dist/docs .resmeter .mypy_cache .ruff_cache .hypothesis
