# The commands of this project for people; CI runs .ci/run, which needs none of this.

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IMAGE ?= cancel-worker

COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-header \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options

# What `make full` does: about an hour on two cores, with seeds from FIRST on. Stories over sockets,
# rehearsals (ROUNDS over every profile) and fuzzing begin nothing new when their minutes are over, and print what they reached;
# the worlds take as long as they take.
WORLDS ?= 80000
FIRST ?= 1000000
REAL_WORLDS ?= 12000
STORIES ?= 5000
CASES ?= 1000000
MINUTES ?= 6
STORY_MINUTES ?= 15
ROUNDS ?= 29
REHEARSAL_MINUTES ?= 15
GUIDED_SECONDS ?= 60

.PHONY: help setup test coverage lint format ci full audit sbom lock rehearse image

help: ## Show this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: ## Make .venv with everything that tests and checks need
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[test,lint]'

test: setup ## Run the tests, some minutes
	$(BIN)/python -m pytest -q

coverage: setup ## Say what the tests of gateway, run and ledger leave untouched in these rooms
	$(BIN)/python -m pytest -q --cov=worker/gateway --cov=worker/run --cov=worker/ledger \
	  tests/gateway tests/run tests/ledger

lint: setup ## Run every check that is not a test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

format: setup ## Rewrite what ruff can put right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ci: ## Run what CI runs
	CI=true bash .ci/run </dev/null

full: setup ## Prove it at length, about an hour: simulated worlds, stories over sockets, fuzzing, with tables
	$(BIN)/python -m pip install -q atheris || echo 'atheris does not install here'
	status=0; \
	$(BIN)/python -m tests.simulation --worlds $(WORLDS) --first $(FIRST) || status=$$?; \
	$(BIN)/python -m tests.simulation --worlds $(REAL_WORLDS) --first $(FIRST) \
	  --transport aiohttp || status=$$?; \
	$(BIN)/python -m tests.system.stories --runs $(STORIES) --seed $(FIRST) --minutes $(STORY_MINUTES) || status=$$?; \
	$(BIN)/python -m tests.system.rehearsals --rounds $(ROUNDS) --seed $(FIRST) --minutes $(REHEARSAL_MINUTES) || status=$$?; \
	$(BIN)/python -m tests.fuzz --cases $(CASES) --seed $(FIRST) --minutes $(MINUTES) || status=$$?; \
	STOPS=20 $(BIN)/python -m pytest -qs tests/system/test_hosts.py -k sigterm || status=$$?; \
	if $(BIN)/python -c 'import atheris'; then \
	  for target in 'job (YAML)' 'configuration (YAML)' 'inventory (CSV)' 'reply to a cancel (JSON)'; do \
	    $(BIN)/python -m tests.fuzz.guided "$$target" -max_total_time=$(GUIDED_SECONDS) -verbosity=0 \
	      -print_final_stats=1 || status=$$?; \
	  done; \
	fi; \
	exit $$status

audit: setup ## Ask the advisory service about what is pinned; needs to reach it
	PATH="$(CURDIR)/$(BIN):$$PATH" .ci/audit requirements.txt requirements-build.txt

sbom: setup ## Write the bill of materials of what is pinned to dist/
	mkdir -p dist
	PATH="$(CURDIR)/$(BIN):$$PATH" .ci/sbom requirements.txt >dist/sbom.cdx.json

rehearse: setup ## Run the example job against the bundled simulator
	$(BIN)/cancel-worker run jobs/example.yaml --rehearse

image: ## Build the container image (needs a container engine)
	docker build --build-arg VERSION=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' worker/__init__.py) -t $(IMAGE) .

lock: setup ## Resolve the requirements files anew, with hashes; needs the package index
	$(BIN)/pip install -q 'pip-tools>=7.6.2'
	$(call locked,requirements.txt,What a run needs,)
	$(call locked,requirements-test.txt,What a run and its tests need,--extra test)
	$(call locked,requirements-build.txt,What building the wheel needs,--build-deps-for wheel --only-build-deps)

# $(1) the file, $(2) its purpose, $(3) further options
define locked
	$(COMPILE) --upgrade $(3) -o $(1) pyproject.toml
	sed -i '1i # $(2), with hashes. Written by `make lock`; do not edit.' $(1)
endef
