# `make demo` and `make test` set everything up first; a second run finds it done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KEEP ?= 1
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all lint bench clean

help:  ## Show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

venv: $(READY)  ## Create .venv with the pinned, tested versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("registry-export needs Python 3.11, this is " + sys.version.split()[0] if sys.version_info[:2] != (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[test]' 2>&1 | { grep -v 'is ignored: it is neither a file nor a directory' || true; }
	$(BIN)/registry-export --version
	touch $(READY)

demo: $(READY)  ## Train a digits classifier, promote it, watch its exports appear (KEEP=0: exit at the end)
	$(BIN)/registry-export demo $(if $(filter 0,$(KEEP)),--no-keep,)

test: $(READY) lint  ## All checks and all tests but the slow ones
	$(PYTEST) -m 'not slow' --ignore=tests/benchmarks

test-all: $(READY) lint  ## Everything, the slow tests (other MLflow versions) too
	$(PYTEST)

lint: $(READY)  ## Style, types and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy registry_export plugins
	$(BIN)/lint-imports

bench: $(READY)  ## What the hook costs a promotion, as a ratio measured in one run
	$(PYTEST) tests/benchmarks -s -q

clean:  ## Remove the environment and everything generated
	rm -rf $(VENV) build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
