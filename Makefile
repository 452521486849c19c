# Two commands: `make launch` searches on the embedded digits, `make test` checks the code in some fifteen minutes.
# Both set .venv up first, and do that again only when pyproject.toml or constraints.txt changed.
#
#   make launch ARGS="search_spaces/cifar10_small.yaml --data FOLDER --name mine"
#   make test PYTHON=python3.12
#
# `make whole` runs the tests that take longer: whole searches, killed and resumed, in processes of their own.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
KEY := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
INSTALLED := $(VENV)/.installed-$(KEY)
INSTALLED_DEV := $(VENV)/.installed-dev-$(KEY)

FAST := -n 3 --dist loadscope --no-loadscope-reorder

.PHONY: launch test install lint fast whole flags chaos help

launch: $(INSTALLED)
	$(BIN)/eed-search launch $(ARGS)

test: lint fast

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast: $(INSTALLED_DEV)
	$(BIN)/python -m pytest $(FAST) $(ARGS)

whole: $(INSTALLED_DEV)
	$(BIN)/python -m pytest $(FAST) -m "whole and not slow and not gpu and not cluster" $(ARGS)

chaos: $(INSTALLED_DEV)
	$(BIN)/python benchmarks/chaos.py --out docs/chaos.md $(ARGS)

flags:
	@printf "%s\n" "$(FAST)"

install: $(INSTALLED_DEV)

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

$(INSTALLED): | $(BIN)/python
	@echo "Installing the pinned packages into $(VENV): once, for some minutes (torch is large)."
	@rm -f $(VENV)/.installed-*
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade > /dev/null
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(INSTALLED_DEV): | $(BIN)/python
	@echo "Installing the pinned packages and the developer's tools into $(VENV): once, for some minutes (torch is large)."
	@rm -f $(VENV)/.installed-*
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade > /dev/null
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(INSTALLED)

# An existing environment is used as it is, never emptied.
$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || { echo "make: $(PYTHON) not found; give one: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than Python 3.11; give another: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
