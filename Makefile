# coin-ray: `make sweep` runs the main study, `make test` checks everything; both install first what
# they need into .venv. Variables: PYTHON, STUDY, ARGS, WORKERS, CONSTRAINTS.

.DEFAULT_GOAL := help
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STUDY ?= ablations/uss_backbones.yaml
ARGS ?=
WORKERS ?= 3
CONSTRAINTS ?= constraints.txt

# The first interpreter that really runs and is of a supported version.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
  && echo $$p && break; done)

.PHONY: help venv install test test-all test-arithmetic lint sweep ui bench clean

help:
	@echo "make sweep    run $(STUDY) (ARGS='--data PATH --profile NAME' are passed on)"
	@echo "make ui       open MLflow over its runs"
	@echo "make test     linters, types, rooms, tests (CI runs this)"
	@echo "make test-all the same with the slow tests"
	@echo "make test-arithmetic  what trains, with other seeds, threads and instruction sets"
	@echo "make lint     the first three"
	@echo "make bench    time and memory of each stage next to a literal implementation"
	@echo "make install  only what all of these do first: .venv with the pinned set"
	@echo "make clean    remove .venv and caches (never results: they are in .coin-ray)"

venv: $(BIN)/python
install: $(STAMP)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "coin-ray needs Python 3.11 or 3.12: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The dense CRF is compiled here, so it comes second: where it does not build, all the rest works.
$(STAMP): pyproject.toml setup.py $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev]"
	@echo "building SAM 2.1 (extra sam2)"
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c $(CONSTRAINTS) "setuptools>=77" \
	  && SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install --disable-pip-version-check -q -c $(CONSTRAINTS) \
	  --no-build-isolation -e ".[sam2]" \
	  || echo "the extra sam2 did not build: studies with sam.model: sam2_… will say so" >&2
	@if command -v g++ >/dev/null || command -v c++ >/dev/null; then \
	  echo "building the dense CRF (extra crf), about a minute"; \
	  $(BIN)/python -m pip install --disable-pip-version-check -q -c $(CONSTRAINTS) -e ".[crf]" \
	  || echo "the extra crf did not build: studies with crf.enabled will say so" >&2; \
	else \
	  echo "no C++ compiler: the extra crf (dense CRF) is left out" >&2; \
	fi
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# One thread a worker: two workers with two threads each are slower than either, and with two cores a
# third fills what those wait for that start Ray. A file of tests that share a Ray cluster is one
# worker's as a whole: --dist loadgroup splits it with the pinned pytest and pytest-xdist. The order
# is that of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST) -m "not slow" $(ARGS)

test-all: lint
	$(PYTEST) $(ARGS)

# A training is rounded otherwise on every processor, so what is asserted of one must hold for any
# seed and any instruction set, of which these are the widest, the narrowest and one between.
TRAINED := $(BIN)/pytest -m trained -p no:cacheprovider
SSE := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
AVX := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2

test-arithmetic: $(STAMP)
	@set -e; for seed in 0 1 2 3 4 5; do for threads in 1 2; do for set in "" "$(SSE)" "$(AVX)"; do \
	  echo "seed $$seed, $$threads threads, $${set:-the widest instruction set}"; \
	  env $$set COIN_RAY_TEST_SEED=$$seed OMP_NUM_THREADS=$$threads $(TRAINED) $(ARGS); \
	done; done; done

sweep: $(STAMP)
	$(BIN)/coin-ray sweep $(STUDY) $(ARGS)

ui: $(STAMP)
	$(BIN)/coin-ray ui $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m benchmarks.stages $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
