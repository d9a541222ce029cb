# Everything starts from here: a shell, make and Python 3.11 or newer with its venv module.
#
#   make demo    install the core into .venv, then run the whole pipeline on the embedded model
#   make test    install the development tools into the same .venv, then run the tests
#
# The files .venv/.installed-* are written after an installation has succeeded, so that an interrupted one
# is done again and a finished one is not repeated until pyproject.toml or constraints.txt changes.

PYTHON ?= python3
VENV ?= .venv
# Handed to every pip install, for example another index or a folder of wheels.
PIP_ARGS ?=
PYTEST_ARGS ?=
# Processes that share the tests. A whole file goes to one process, as its fixtures are costly; those that take longest
# go first (tests/conftest.py).
TEST_WORKERS ?= 2
# Threads of each of them.
TEST_THREADS ?= 1
DEMO_OUT ?= demo

# Python keeps what it has compiled, also on hosts that say otherwise: the demo and the tests start many processes.
export PYTHONDONTWRITEBYTECODE :=

PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
INPUTS := pyproject.toml constraints.txt
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help demo test lint ruff pyright format lock notebooks docs clean

help:
	@echo "make demo    run the whole pipeline on the embedded model, results in $(DEMO_OUT)/"
	@echo "make test    run the tests; PYTEST_ARGS='-k heads' selects some"
	@echo "make lint    ruff check, ruff format --check, pyright"
	@echo "make format  apply ruff's fixes and formatting"
	@echo "make lock    write constraints-tested.txt: the releases that are installed in $(VENV)"
	@echo "make notebooks  run notebooks/*.py and write them with what they show, as .ipynb"
	@echo "make docs    build the documentation into docs/_build/html, warnings are errors"
	@echo "make clean   remove $(VENV), caches and what was built"
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) DEMO_OUT=$(DEMO_OUT) TEST_WORKERS=$(TEST_WORKERS) TEST_THREADS=$(TEST_THREADS) PIP_ARGS PYTEST_ARGS"

# The demo shares its videos among processes, one for each core, so that threads within them would stand in the way.
demo: $(VENV)/.installed-core
	@MPLBACKEND=Agg OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m headprobe demo --out "$(DEMO_OUT)"

test: $(VENV)/.installed-dev
	@MPLBACKEND=Agg OMP_NUM_THREADS=$(TEST_THREADS) HF_HUB_OFFLINE=1 $(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: ruff pyright

ruff: $(VENV)/.installed-dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

# Without the variable, pyright asks the package index for its newest version at every run.
pyright: $(VENV)/.installed-dev
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(PY) -m pyright --pythonpath $(PY)

format: $(VENV)/.installed-dev
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

lock: $(VENV)/.installed-dev
	@$(PY) .ci/lock > constraints-tested.txt.part && mv constraints-tested.txt.part constraints-tested.txt

notebooks: $(VENV)/.installed-dev $(VENV)/.installed-docs
	@$(PY) docs/run_notebooks.py

docs: $(VENV)/.installed-docs
	@MPLBACKEND=Agg HF_HUB_OFFLINE=1 $(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf "$(VENV)" build dist docs/_build .pytest_cache .ruff_cache .hypothesis
	find headprobe tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys' 2>/dev/null || { \
	  echo "headprobe: '$(PYTHON)' does not run. Name a Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "headprobe: '$(PYTHON)' is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed." \
	       "Name one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "headprobe: '$(PYTHON)' has no venv module with pip. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "headprobe: creating $(VENV)"
	@$(PYTHON) -m venv "$(VENV)"
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "headprobe: $(VENV) was made by an older Python. Remove it and try again: make clean" >&2; exit 1; }
	@touch "$@"

# torch goes first and alone: constraints.txt pins the release, so that a CPU build at hand is taken and none
# of the other packages can pull another torch with its CUDA libraries.
$(VENV)/.installed-core: $(VENV)/.created $(INPUTS)
	@echo "headprobe: installing torch"
	@$(PIP_INSTALL) -q torch
	@echo "headprobe: installing headprobe"
	@$(PIP_INSTALL) -q -e .
	@touch "$@"

$(VENV)/.installed-dev: $(VENV)/.installed-core $(INPUTS)
	@echo "headprobe: installing the development tools"
	@$(PIP_INSTALL) -q -e ".[dev]"
	@touch "$@"

$(VENV)/.installed-docs: $(VENV)/.installed-core $(INPUTS)
	@echo "headprobe: installing the documentation tools"
	@$(PIP_INSTALL) -q -e ".[docs]"
	@touch "$@"
