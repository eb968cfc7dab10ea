# Everything a fresh machine with Python 3.11 or newer and make needs. `make help` lists the targets.
#   PYTHON=python3.12   the interpreter to build the environment with
#   VENV=.venv          where the environment lies
#   ARGS="..."          passed on: make demo ARGS="--epsilon 2", make test ARGS="tests/protocols -k dropout"

VENV ?= .venv
ARGS ?=
WORKERS ?= auto
BIN := $(VENV)/bin
PACKAGES := privfed protocols/privfed_protocols accounting/privfed_accounting
RECENT := import sys; sys.exit(sys.version_info < (3, 11))

# A PYTHON that was named is used or refused; otherwise the first one that is recent enough.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	if "$$p" -c '$(RECENT)' 2>/dev/null; then echo "$$p"; break; fi; done)
else
EXACTLY := --exactly
endif

# One thread a process: the suites run side by side, and small matrices lose by more.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help environment demo test slow browser postgres doctest coverage lint format docs docs-serve bench wheel ci clean distclean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

environment:  ## make or update the virtual environment (every other target does it by itself)
	@test -n "$(PYTHON)" || { echo "privfed: error: no Python 3.11 or newer found (python3 is $$(python3 -V 2>&1 || true))" >&2; \
		echo "privfed: hint: install one, or name it: make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c '' 2>/dev/null || { echo "privfed: error: PYTHON=$(PYTHON) does not run" >&2; exit 1; }
	@"$(PYTHON)" -c '$(RECENT)' || { echo "privfed: error: PYTHON=$(PYTHON) is $$("$(PYTHON)" -V 2>&1), needed is 3.11 or newer" >&2; exit 1; }
	@"$(PYTHON)" scripts/environment.py "$(VENV)" $(EXACTLY)

demo: environment  ## twenty silos train one mixture that none of them shows; then open the report
	@$(BIN)/privfed demo $(ARGS)

test: environment  ## the fast tests: what to run before every commit
	@$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=4 -m "not slow and not browser and not postgres" $(ARGS)

slow: environment  ## the tests that take minutes
	@$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=4 -m "slow and not browser and not postgres" $(ARGS)

browser: environment  ## the report pages in a real Chromium
	@$(BIN)/python -m pytest -m browser $(ARGS)

postgres: environment  ## the ledger on a real PostgreSQL server
	@$(BIN)/python -m pytest -m postgres $(ARGS)

doctest: environment  ## the examples in the docstrings
	@$(BIN)/python -m pytest --doctest-modules $(PACKAGES) $(ARGS)

coverage: environment  ## lines and branches that the fast tests reach, as text and in htmlcov/
	@$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=4 -m "not slow and not browser and not postgres" \
		--cov --cov-report=term --cov-report=html $(ARGS)

lint: environment  ## ruff, mypy --strict and the layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy scripts
	@$(BIN)/lint-imports --no-logo

format: environment  ## rewrite the sources in the one layout
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

docs: environment  ## the manual, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "privfed: the manual is in site/index.html"

docs-serve: environment  ## the manual, live, on http://localhost:8000
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: environment  ## time the parts that have a bar; one line a figure
	@set -e; for file in $(sort $(wildcard benchmarks/[a-z]*.py)); do echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done

wheel: environment  ## build, inspect and test the wheel in a clean environment
	@$(BIN)/python scripts/check_wheel.py

ci:  ## everything that has to hold, as the continuous integration runs it (root, apt)
	@.ci/run

clean:  ## remove what was built, but not the environment
	rm -rf build dist site htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache \
		.grimp_cache .hypothesis privfed-demo privfed-sweep report.html
	find privfed protocols accounting tests examples benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove the environment, too
	@test ! -e "$(VENV)/pyvenv.cfg" || { echo "rm -rf $(VENV)"; rm -rf "$(VENV)"; }
