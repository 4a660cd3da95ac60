VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test lowest lint format docs clean

help: ## what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY) ## set up, then the main job: digits, 40 % wrong labels, InfoBatch + DAS
	$(BIN)/python scripts/train.py

test: $(READY) ## set up, then all tests
	$(BIN)/python -m pytest

lowest: ## set up, then a smoke test with the lowest supported versions and nothing besides
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-lowest/bin/python -m pip install --quiet --requirement tests/lowest.txt .
	$(VENV)-lowest/bin/python tests/smoke.py

lint: $(READY) ## what CI checks besides the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY) ## mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY) ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean: ## remove the environment and the runs
	rm -rf $(VENV) $(VENV)-lowest outputs multirun site
