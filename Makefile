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

.PHONY: help setup test coverage lint format ci lock rehearse image

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
