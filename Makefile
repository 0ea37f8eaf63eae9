# One interface for people and CI. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help env lock reproduce demo test test-slow lint bench clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
BIN := .venv/bin
RUN := $(BIN)/python
# Extra overrides for every training or evaluation of reproduce and demo, e.g. make demo ARGS="seed=1".
ARGS ?=

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

env: .venv/.installed ## make .venv with the locked packages

.venv/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "Python 3.11 is needed: install it, or name one with make env PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(RUN) --require-hashes -r requirements.lock
	@touch $@

lock: ## resolve requirements.in again into requirements.lock
	$(BIN)/uv pip compile requirements.in --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock
