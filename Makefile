# Two commands: `make quickstart` from nothing to results, `make test` from nothing to a verdict.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORAGE ?= results
KILLS ?= 50
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test lint chaos bench clean

quickstart: $(VENV)/.installed
	$(BIN)/rl-alliteration sweep --preset quickstart --storage $(STORAGE)

test: lint
	$(BIN)/python -m pytest -m "not chaos" --numprocesses 2 --dist loadfile

lint: $(VENV)/.installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

chaos: $(VENV)/.installed-for-tests
	RL_ALLITERATION_KILLS=$(KILLS) $(BIN)/python -m pytest -m chaos | tee .chaos.log
	@grep '^chaos: ' .chaos.log | tail -n 1

# What we and the peers take for one RLOO step, and what a sweep costs: tables under benchmarks/results/.
bench: $(VENV)/.installed-for-benchmarks
	$(BIN)/python benchmarks/speed.py --threads 1 --output shipped-1-thread
	$(BIN)/python benchmarks/speed.py --threads 2 --output shipped-2-threads
	$(BIN)/python benchmarks/speed.py --model 33m --threads 2 --repetitions 5 --warm-up 1 --output 33m-2-threads
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/checkpoints.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV) (two minutes or so, once) ..."
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-for-tests: $(VENV)/.installed
	$(INSTALL) --editable '.[test,lint]'
	@touch $@

$(VENV)/.installed-for-benchmarks: $(VENV)/.installed
	$(INSTALL) --editable '.[bench]'
	@touch $@
