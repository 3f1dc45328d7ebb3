# Compline: `make close` on a bare machine with Python 3.11 or newer. `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help setup close test lint format dev docs down clean bench faults
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
BIN := .venv/bin

# The interpreter for .venv: PYTHON=… chooses one, else the first here that fits and can make environments.
PYTHON ?=
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.11 python3.12 python3.13 python3.14 python)

# No part of it reports to anybody.
export DO_NOT_TRACK := 1
export DAGSTER_DISABLE_TELEMETRY := 1
export DBT_SEND_ANONYMOUS_USAGE_STATS := false
export GX_ANALYTICS_ENABLED := false

# Extra arguments: make test ARGS="-k ledger", make close ARGS="--days 5"
ARGS ?=
# Test processes; each has servers of its own.
JOBS ?= 3

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## build .venv from the lock files (costs nothing when it is there)
	@if [ -z "$(PYTHON)" ] && $(BIN)/python scripts/setup.py --check 2>/dev/null; then exit 0; fi; \
	python=; tried=; \
	for candidate in $(CANDIDATES); do \
	  version=$$("$$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  if ! "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'; then \
	    tried="$$tried $$candidate is $$version;"; continue; fi; \
	  if ! "$$candidate" -c 'import venv, ensurepip' 2>/dev/null; then \
	    tried="$$tried $$candidate ($$version) has no venv or ensurepip (Debian: apt-get install python3-venv);"; continue; fi; \
	  python=$$candidate; break; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "setup: Compline needs Python 3.11 to 3.14 with venv.$${tried:- No python3 was found.}" >&2; \
	  echo "setup: install one, or name it: make close PYTHON=/path/to/python3.11" >&2; exit 78; fi; \
	exec "$$python" scripts/setup.py

close: setup ## close the demo exchange's days, from nothing to sealed
	@$(BIN)/compline demo $(ARGS)

test: setup ## run the tests (ARGS="-k name" for some; JOBS=1 for one process)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## format, style, types, import contracts, SQL
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@if [ -d dbt/models ]; then $(BIN)/sqlfluff lint dbt/models; fi

format: setup ## let ruff format and correct what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

dev: setup ## open the Dagster UI with its daemon
	@$(BIN)/compline dev $(ARGS)

docs: setup ## build the page that describes every mart, column and test (no database needed)
	@$(BIN)/python -m pipelines.docs

bench: setup ## measure, and print the figures
	@$(BIN)/python -m pytest -m bench -s --timeout=3600 $(ARGS)

faults: setup ## kill-and-restart loops, and many examples of each property
	@$(BIN)/python -m pytest -m faults --timeout=3600 $(ARGS)
	@COMPLINE_EXAMPLES=many $(BIN)/python -m pytest tests/property --timeout=3600 $(ARGS) || [ $$? -eq 5 ]

down: ## stop the embedded servers
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m pipelines.local down; fi

clean: ## stop the servers, then remove .venv and .compline (FORCE=1 if real keys are in it)
	@if [ -z "$(FORCE)" ] && ls .compline/keys/*.keys >/dev/null 2>&1; then \
	  echo "clean: .compline/keys holds keys that seals and proofs depend on; move them away, or say make clean FORCE=1" >&2; exit 78; fi
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m pipelines.local purge; fi
	@rm -rf .venv .compline
