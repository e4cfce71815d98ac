# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs in .venv, once. `make` alone lists them.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Where the demo and the benchmarks put what they make.
OUTPUT ?= outputs

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-fast lint format bench conformance soak docs recording schemas step-action pythons constraints clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- Set-up: a stamp for each set of extras, so that the second call is instant ---------------------------------------

# A venv has no pip where Debian's python3-venv is missing; a half-made one is made again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1 || true); Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }

# The build back ends, ours and that of the sources among our dependencies, first and from the constraints too: an
# isolated build would take any version of them.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing $* into $(VENV)"
	@$(PIP) install --constraint constraints.txt hatchling editables setuptools
	@$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[$*]'
	@touch $@

setup: $(VENV)/.installed-demo,lint,test ## Install everything for development into .venv

# Programs of others that check the exports of a report, with what they would fetch.
VALIDATORS := .build/validators
$(VALIDATORS)/.installed: .ci/validators.txt .ci/validators.py | $(BIN)/python
	@echo "installing validators into $(VALIDATORS)"
	@$(BIN)/python -m venv --clear $(VALIDATORS)
	@$(VALIDATORS)/bin/python -m pip --disable-pip-version-check --quiet install --requirement $<
	@$(VALIDATORS)/bin/python .ci/validators.py $(VALIDATORS)
	@touch $@

# --- The four commands ------------------------------------------------------------------------------------------------

demo: $(VENV)/.installed-demo ## Run three notebooks on real single-cell data, without a download or a GPU
	$(BIN)/runner demo --output-dir $(OUTPUT)/demo

# What a machine lacks (a C compiler, Chromium, a GPU) skips its tests; pytest says which and why.
# Three processes keep two cores busy, as many tests wait. worksteal: a process keeps to its part of the files, whose
# fixtures are then made once, until it has nothing left.
TESTS ?= tests
test: $(VENV)/.installed-demo,test,s3,hf $(VALIDATORS)/.installed ## Run the tests that need no GPU, no container engine and no cluster
	$(BIN)/python -m pytest -n 3 --dist worksteal -m 'not gpu and not image and not cluster' $(TESTS)

test-fast: $(VENV)/.installed-demo,test,s3,hf ## Run the tests that start no process, for the inner loop
	$(BIN)/python -m pytest -q -n 3 --dist worksteal -r fE --in-process -m 'not gpu and not image and not cluster and not browser and not slow' $(TESTS)

# The files of the repository, also where its owner is somebody else (a container's mount).
FILES = git -c safe.directory='*' ls-files --cached --others --exclude-standard
lint: $(VENV)/.installed-lint ## Check style, types, YAML, shell scripts and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict $$($(FILES) '*.yaml' '*.yml')
	$(BIN)/shellcheck $$($(FILES) '*.sh' .ci/run .ci/npm-install .ci/pythons)
	$(BIN)/codespell $$($(FILES))

bench: $(VENV)/.installed-demo,test ## Measure against papermill and nbconvert; print the table, write JSON
	$(BIN)/python -m benchmarks.run --output $(OUTPUT)/benchmarks.json

# --- Proof: see CONTRIBUTING.md ----------------------------------------------------------------------------------------

PEERS := .build/conformance
$(PEERS)/.installed: tests/conformance/requirements.txt | $(BIN)/python
	@echo "installing the engines to compare with into $(PEERS)"
	@$(BIN)/python -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip --disable-pip-version-check --quiet install --requirement $<
	@touch $@

ENGINES ?=
CASES   ?=
conformance: $(VENV)/.installed-demo,test $(PEERS)/.installed ## Hold engines against the truth: ENGINES='runner papermill' CASES='sig*'
	PYTHONPATH=tests $(BIN)/python -m conformance --peers $(PEERS)/bin \
	  $(if $(ENGINES),--engines $(ENGINES)) $(if $(CASES),--cases $(foreach glob,$(CASES),'$(glob)')) \
	  --write docs/CONFORMANCE.md

SECONDS ?= 600
SEED    ?=
REPLAY  ?=
soak: $(VENV)/.installed-demo,test ## Random faults at random moments: SECONDS=600 SEED=n; REPLAY=n plays one again
	PYTHONPATH=tests $(BIN)/python -m soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) \
	  $(if $(REPLAY),--replay $(REPLAY)) $(if $(SCENARIO),--scenario $(SCENARIO))

# --- Upkeep -----------------------------------------------------------------------------------------------------------

format: $(VENV)/.installed-lint ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs ## Build the documentation as a site in site/; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

recording: $(VENV)/.installed-demo,test ## Record a run for the documentation: docs/images/
	$(BIN)/python .ci/recording.py

schemas: $(VENV)/.installed-demo ## Write the published JSON schemas from the models
	$(BIN)/python .ci/schemas.py

step-action: $(VENV)/.installed-demo ## Write the StepAction from the executor's Task
	$(BIN)/python .ci/step_action.py

constraints: ## Pin anew from pyproject.toml (needs uv on the PATH)
	$(PYTHON) .ci/constraints.py

pythons: $(VENV)/.installed-demo,test ## Run the core tests on every other Python found, and on the lowest versions allowed
	PYTHON=$(PYTHON) .ci/pythons

clean: ## Remove what make made, the outputs excepted
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache

# --- Images: see images/README.md -------------------------------------------------------------------------------------

include images/versions.env
ENGINE        ?= $(shell command -v podman || command -v docker)
IMAGE_NAME    ?= localhost/rapids-notebook-runner
IMAGE_VERSION ?= dev
# Your own base, and how a build reaches your package index: a pip.conf, and mounts for podman.
BASE_IMAGE    ?=
PIP_CONF      ?=
BUILD_OPTIONS ?= $(if $(findstring podman,$(ENGINE)),--timestamp 0)

.PHONY: image image-test sbom
image: image-cpu image-g1 image-g2 image-g3 ## Build the four images; or one: image-cpu, image-g1, image-g2, image-g3

image-cpu: base = $(CPU_BASE)$(CPU_BASE_DIGEST:%=@%)
image-g1: base = $(G1_BASE)$(G1_BASE_DIGEST:%=@%)
image-g2: base = $(G2_BASE)$(G2_BASE_DIGEST:%=@%)
image-g3: base = $(G3_BASE)$(G3_BASE_DIGEST:%=@%)
image-cpu image-g1 image-g2 image-g3: image-%:
	@case "$(or $(BASE_IMAGE),$(base))" in *@sha256:*) ;; *) \
	  echo "WARNING: $(or $(BASE_IMAGE),$(base)) has no digest: another build may take another base." >&2; \
	  echo "  images/check-bases.sh prints the digests for images/versions.env" >&2;; esac
	$(ENGINE) build $(BUILD_OPTIONS) $(if $(PIP_CONF),--secret id=pipconf$(comma)src=$(PIP_CONF)) \
	  --file images/Dockerfile --target $(if $(filter cpu,$*),cpu,gpu) --build-arg GENERATION=$* \
	  --build-arg BASE_IMAGE=$(or $(BASE_IMAGE),$(base)) --build-arg BASE_NAME=$(or $(BASE_IMAGE),$(base)) \
	  --build-arg IMAGE=$(IMAGE_NAME):$(IMAGE_VERSION)-$* --build-arg VERSION=$(IMAGE_VERSION) \
	  --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null) --tag $(IMAGE_NAME):$(IMAGE_VERSION)-$* .
	@echo "base: $$($(ENGINE) image inspect --format '{{index .RepoDigests 0}}' $(or $(BASE_IMAGE),$(base)) 2>/dev/null || echo 'digest unknown to $(ENGINE)')"
	$(ENGINE) history --format '{{.Size}}  {{.CreatedBy}}' $(IMAGE_NAME):$(IMAGE_VERSION)-$* | grep -v '^0 *B ' | cut -c 1-120
comma := ,

image-test: $(VENV)/.installed-demo,test ## Build the images' stand-ins and test them with podman or docker
	$(BIN)/python -m pytest -m image tests/image

# In an environment of its own: it brings a parser that makes every import of jsonschema a second slower.
$(VENV)/sbom/bin/cyclonedx-py: | $(BIN)/python
	@$(BIN)/python -m venv $(VENV)/sbom
	@$(VENV)/sbom/bin/pip --disable-pip-version-check --quiet install cyclonedx-bom==7.5.0

# From the lock, so that it needs neither the image nor its base.
SBOM_LOCK ?= cpu
SBOM      ?= $(OUTPUT)/sbom-$(SBOM_LOCK).json
sbom: $(VENV)/sbom/bin/cyclonedx-py ## Write what an image adds to its base as CycloneDX: SBOM_LOCK=cpu, g1, g2 or g3
	@mkdir -p $(dir $(SBOM))
	$(VENV)/sbom/bin/cyclonedx-py requirements --output-reproducible --pyproject pyproject.toml --output-file $(SBOM) images/requirements-$(SBOM_LOCK).lock
