# `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LICENCES := MIT;Apache;BSD;MPL;Mozilla Public;PSF;Python Software Foundation;ISC;LGPL-2.1-or-later

.PHONY: help run demo test lint bench bench-federation docs soak-kill fuzz-api sim mutants install dev lock clean
help:           ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

$(VENV)/.run: pyproject.toml requirements.lock
	@echo "installing into $(VENV): a minute or so" >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

install: $(VENV)/.run   ## make the virtual environment and install kosreg into it
dev: $(VENV)/.dev       ## the same, with what tests and linters need

run: install            ## start a node (Ctrl-C ends it)
	@$(BIN)/kosreg run

demo: install           ## the whole story in a minute
	@$(BIN)/python -m examples.demo

# The bytecode is kept, whatever the caller's environment says: the tests start some hundred processes. Who has no test
# left takes half of what the other still has (worksteal), so both are busy to the end.
test: dev               ## all tests (see CONTRIBUTING.md for the long ones)
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 2 --dist worksteal

lint: dev               ## ruff, mypy --strict, the import rules, dependencies and their licences
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/pip-licenses --from=mixed --partial-match --allow-only='$(LICENCES)' >/dev/null

bench: dev              ## our speed beside a bare aiohttp handler, as a table of ratios
	$(BIN)/python -m tests.bench.node

bench-federation: dev   ## how fast facts travel between nodes, and what that costs
	$(BIN)/python -m tests.bench.reconcile
	$(BIN)/python -m tests.bench.trust
	$(BIN)/python -m tests.bench.federation

docs: dev               ## write the tables of the documentation anew from the code
	$(BIN)/python -m docs.generate

soak-kill: dev          ## kill a node under load 50 times: nothing that was acknowledged may be lost (30 minutes)
	KOSREG_TEST_KILLS=50 $(BIN)/pytest tests/integration/test_crash.py tests/integration/federation/test_join_crash.py \
		tests/integration/federation/test_member_crash.py

fuzz-api: dev           ## schemathesis against a real node for a long time (20 minutes)
	KOSREG_TEST_EXAMPLES=1000 KOSREG_TEST_SEED=$$(date +%s) $(BIN)/pytest tests/integration/test_openapi_conformance.py

sim: dev                ## 2000 simulated federations that are cut, crashed and wiped; who is alive, 1000 times (30 minutes)
	$(BIN)/python -m tests.sim --first $$(date +%s) --runs 2000 --jobs 2
	$(BIN)/python -m tests.sim.alive --first $$(date +%s) --runs 1000 --jobs 2

mutants: dev            ## break one rule at a time and see the simulator notice (30 minutes)
	$(BIN)/python -m tests.sim.mutants

lock: dev               ## write the lock files anew from pyproject.toml
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --python-version 3.11 --universal --generate-hashes --no-annotate --no-header --quiet --upgrade -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.11 --universal --generate-hashes --no-annotate --no-header --quiet -c requirements.lock -o requirements-dev.lock

clean:                  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
