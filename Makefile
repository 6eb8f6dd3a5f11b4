# make demo | test | lint | clean. On a fresh machine: Python 3.11 or newer and make are enough.
# Options: PYTHON=python3.12, VENV=.venv, PIP_FLAGS="...", PYTEST_FLAGS="...".
PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n 2

BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable

.PHONY: help demo test lint clean

help:
	@echo "make demo   create $(VENV) and run the demonstration"
	@echo "make test   create $(VENV) and run all tests"
	@echo "make lint   style, types and layers"
	@echo "make clean  remove $(VENV) and everything that was built"

demo: $(VENV)/.demo
	$(BIN)/cell2sen demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# Stamps: an environment is made again when what it is made from has changed, and only then.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("cell2sen needs Python 3.11 or newer, \
	found %d.%d as $(PYTHON); name another one: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.demo
