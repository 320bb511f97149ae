# Everything a newcomer needs: `make demo`. Everything a developer needs: `make check test`.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-cluster check format bench lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.venv: .venv/.installed ## create .venv from requirements.lock

.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("fmasearch needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/.installed ## render demo music, search, confirm, retrain, test, report
	$(BIN)/fmasearch demo

test: .venv/.installed ## the default tests, in 2 processes (under 8 minutes on 2 cores)
	$(BIN)/pytest -n 2

test-slow: .venv/.installed ## the tests that take minutes
	$(BIN)/pytest -m slow

test-cluster: .venv/.installed ## a study over three hosts made of namespaces (root, Linux)
	$(BIN)/python tests/cluster/three_hosts.py

check: .venv/.installed ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed ## reformat and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.installed ## side-by-side timings (benchmarks/)
	$(BIN)/python benchmarks/trial_turnover.py
	$(BIN)/python benchmarks/shared_data.py
	$(BIN)/python benchmarks/feature_throughput.py
	$(BIN)/python benchmarks/prepare_memory.py
	$(BIN)/python benchmarks/cluster_overhead.py

lock: .venv/.installed ## write what is installed to requirements.lock
	$(BIN)/pip freeze --all --exclude-editable --exclude fmasearch --exclude pip > requirements.lock

clean: ## remove the environment and caches, keep results/ and runs/
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist src/*.egg-info
