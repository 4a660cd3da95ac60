SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# What has been installed: what the command needs, and what working on the project needs.
TRAIN := $(VENV)/.train
DEV := $(VENV)/.dev
# A line for each package as it comes, so that an installation of some gigabytes is seen to go on.
SHOWN := sed -nu -e 's/^ *\(Collecting\|Downloading\|Installing\|Building\|Using cached\) /  \1 /p' | cut -c1-100

.PHONY: help demo test lowest compat lint format docs clean

help: ## what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	@echo "Making an environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip

$(TRAIN): pyproject.toml | $(BIN)/python
	@echo "Installing what the demo needs into $(VENV); torch and its libraries take minutes and some gigabytes"
	@$(BIN)/python -m pip install --progress-bar off --editable '.[train]' | $(SHOWN)
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	@echo "Installing what the tests need into $(VENV); torch and its libraries take minutes and some gigabytes"
	@$(BIN)/python -m pip install --progress-bar off --editable '.[dev]' | $(SHOWN)
	@touch $(TRAIN) $@

demo: $(TRAIN) ## set up, then train on digits with 40 % wrong labels: plain, by the paper's method, calibrated
	$(BIN)/python scripts/demo.py

test: $(DEV) ## set up, then all tests
	$(BIN)/python -m pytest

lowest: ## set up, then a smoke test with the lowest supported versions and nothing besides
	@echo "Installing the lowest supported versions into $(VENV)-lowest"
	@$(PYTHON) -m venv $(VENV)-lowest
	@$(VENV)-lowest/bin/python -m pip install --quiet --upgrade pip
	@$(VENV)-lowest/bin/python -m pip install --progress-bar off --requirement tests/lowest.txt . | $(SHOWN)
	$(VENV)-lowest/bin/python tests/smoke.py

compat: ## set up third-party projects, then train each with the callback and write docs/works-with.md
	@echo "Installing third-party projects into $(VENV)-compat; it takes ten minutes and some gigabytes"
	@$(PYTHON) -m venv $(VENV)-compat
	@$(VENV)-compat/bin/python -m pip install --quiet --upgrade pip
	@$(VENV)-compat/bin/python -m pip install --progress-bar off --requirement scripts/compat/requirements.txt --editable . | $(SHOWN)
	$(VENV)-compat/bin/python scripts/compat.py

lint: $(DEV) ## what CI checks besides the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEV) ## mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(DEV) ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean: ## remove the environment and the runs
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-compat outputs multirun site
