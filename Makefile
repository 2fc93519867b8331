# `make demo` and `make test` set everything up first; a second run finds it done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KEEP ?= 1
PYTEST := $(BIN)/python -m pytest
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all lint docs gpu macos bench bench-peers matrix corpus faults torture fuzz clean

help:  ## Show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

venv: $(READY)  ## Create .venv with the pinned, tested versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("registry-export needs Python 3.11, this is " + sys.version.split()[0] if sys.version_info[:2] != (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Installing the pinned packages into $(VENV): 6 GB, some minutes, without a word until it ends.'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[test]' 2>&1 | { grep -v 'is ignored: it is neither a file nor a directory' || true; }
	$(BIN)/registry-export --version
	touch $(READY)

demo: $(READY)  ## Train a digits classifier, promote it, watch its exports appear (KEEP=0: exit at the end)
	$(BIN)/registry-export demo $(if $(filter 0,$(KEEP)),--no-keep,)

test: $(READY) lint  ## All checks and all tests but the slow ones
	$(PYTEST) -n 2 --dist loadfile -m 'not slow' --ignore=tests/benchmarks

test-all: $(READY) lint  ## Everything, the slow tests (other MLflow versions) too
	$(PYTEST)

lint: $(READY)  ## Style, types and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy registry_export plugins
	$(BIN)/lint-imports

docs: $(READY)  ## The documentation as a site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

gpu: $(READY)  ## Run TensorRT engines on the GPU that is here, next to PyTorch
	$(PYTEST) tests/gpu

macos: $(READY)  ## Run Core ML packages on macOS, next to PyTorch
	$(PYTEST) tests/macos

bench: $(READY)  ## Every figure beside its limit and its baseline, into docs/benchmarks.md (ONLY=words of tests)
	failed=0; \
	$(PYTEST) tests/benchmarks -s -q $(if $(ONLY),-k '$(ONLY)',) || failed=1; \
	$(BIN)/python -m tests.benchmarks.table docs/benchmarks.md || failed=1; \
	exit $$failed

bench-peers: $(READY)  ## Olive, optimum-onnx and Model Navigator beside us, in environments of their own, into docs/peers.md
	$(BIN)/python -m tests.peers.run
	$(BIN)/python -m tests.peers.table docs/peers.md

matrix: $(READY)  ## Every source against every target, measured, into docs/matrix.md; resumes where it stopped
	$(BIN)/python -m tests.matrix docs/matrix.md

corpus: $(READY)  ## A hundred architectures through every target beside the raw calls, into docs/corpus.md (SHARD=i/n)
	SHARD=$(or $(SHARD),1/1) $(BIN)/python -m tests.corpus.run
	$(BIN)/python -m tests.corpus.table docs/corpus.md

faults: $(READY)  ## Hundreds of planted faults, which must not be verified, into docs/faults.md (SHARD=i/n)
	SHARD=$(or $(SHARD),1/1) $(BIN)/python -m tests.faults.run
	$(BIN)/python -m tests.faults.table docs/faults.md

torture: $(READY)  ## Kill workers, children, server and database 500 times during promotions, into docs/torture.md (SEED=n)
	failed=0; \
	$(BIN)/python -m tests.torture.run || failed=1; \
	$(BIN)/python -m tests.torture.table docs/torture.md || failed=1; \
	exit $$failed

fuzz: $(READY)  ## 100,000 spoiled inputs for every parser of ours, within time and memory (INPUTS=n SEED=n; one seed resumes)
	$(BIN)/python -W ignore -m tests.fuzz.run --inputs $(or $(INPUTS),100000) $(if $(SEED),--seed $(SEED),)
	FUZZ_EXAMPLES=2000 $(PYTEST) -q tests/fuzz/test_properties.py

clean:  ## Remove the environment and everything generated
	rm -rf $(VENV) build dist demo site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
