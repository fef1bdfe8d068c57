# eventsync: `make run` shows it at work, `make test` proves it. Both make what they need; only Python is assumed.
#
# PYTHON chooses the interpreter (3.11 or later) that the virtual environment is made with; ARGS is passed on:
#   make run ARGS="--port 9000"        make test ARGS="-k spool"

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$each -c '$(IS_NEW_ENOUGH)' >/dev/null 2>&1; then echo $$each; break; fi; done)

.PHONY: help run install test check prove simulate bench pictures

help:
	@echo "make run      everything in one process, with a pretend practice that sends webhooks (Ctrl-C ends it)"
	@echo "make test     all tests, in sizes that take under ten minutes on two cores; with ARGS, pytest with these"
	@echo "make prove    all tests, in full sizes"
	@echo "make simulate SEED=7  one seed of the simulation, or several (SEED=1-5000)"
	@echo "make check    lint, types, import contract"
	@echo "make bench ARGS=\"ingress --rounds 3\"  contests with naive ways and peers; all of them without ARGS"
	@echo "make pictures the README's pictures, drawn from the product at work"
	@echo "make install  only the virtual environment, $(VENV)"

run: $(VENV)/.installed
	$(BIN)/eventsync up --sandbox $(ARGS)

install: $(VENV)/.installed

# Everything on the wheel's PostgreSQL, and what speaks SQL once more on the oldest one that is installed, two processes
# at a time. With ARGS, one pytest that is given these.
test: $(VENV)/.installed-dev
	tests/install-services
	$(BIN)/python $(if $(strip $(ARGS)),-m pytest $(ARGS),tests/run_all.py)

prove: $(VENV)/.installed-dev
	tests/install-services
	EVENTSYNC_PROVE=1 $(BIN)/python -m pytest $(ARGS)

simulate: $(VENV)/.installed-dev
	@test -n "$(SEED)" || { echo "Name a seed, or a range: make simulate SEED=1-5000"; exit 1; }
	EVENTSYNC_SIMULATE="$(SEED)" $(BIN)/python -m pytest tests/simulation -k nothing_is_lost -rN --show-capture=no $(ARGS)

bench: $(VENV)/.installed-dev
	tests/install-services
	PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

pictures: $(VENV)/.installed
	mkdir -p deploy/pictures
	$(BIN)/python tests/pictures/draw.py deploy/pictures/live.svg

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The stamps are redone when a lock file or the project's own data change.
$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "eventsync needs Python 3.11 or later, and none is on the path."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c '$(IS_NEW_ENOUGH)' || { \
		echo "eventsync needs Python 3.11 or later; $(PYTHON) is older, or does not run."; \
		echo "Name another: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: its module venv (or ensurepip) is missing."; \
		echo "Debian, Ubuntu:  sudo apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
