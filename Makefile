# Everything that is done with this checkout. `make` alone lists it.
#
# Needs Python >= 3.11 and make; the rest comes from requirements.lock into .venv.
# PYTHON=python3.12 make …   chooses the Python that .venv is made with.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; \
	done)
VENV := .venv
BIN := $(VENV)/bin
CODE := flowroute tests benchmarks examples tools docs
SOURCES := $(wildcard $(CODE))

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint types contracts unit bench faults coverage services screenshot format docs lock upgrade dist clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo ## run the demo shop: Redis, a worker and the web server, until Ctrl-C
	@$(BIN)/flowroute demo

install: $(VENV)/.dev ## make .venv with everything for development, from the lock

test: install services ## run every check and every test
	@$(MAKE) lint types contracts docs unit

lint: install ## check style, format and that the lock is in step with pyproject.toml
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/python tools/lock.py check

types: install ## check the types with mypy and pyright
	$(BIN)/mypy
	$(BIN)/pyright

contracts: install ## check which module may import which
	@# An installed wheel of its own would hide the checkout, so it comes first.
	PYTHONPATH=. $(BIN)/lint-imports --no-cache

unit: install ## run the tests; ARGS="-k codec -x" are pytest's
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.bench services ## measure every figure, in under 25 minutes; ONLY=resume measures one
	$(BIN)/python -m benchmarks $(foreach name,$(ONLY),--only $(name)) $(ARGS)

faults: install services ## break everything, in under 20 minutes; ARGS="--only crash-points --seed 7"
	$(BIN)/python -m tests.faults $(ARGS)

coverage: install ## run the engine's tests with its coverage, forked processes counted
	@# Not the interruptions: an exception raised within coverage's own lines leaves its lock held.
	@# And not what is counted of a transition: coverage would be counted too.
	@mkdir -p build && rm -f build/coverage build/coverage.*
	@# --cov= so: a directory that stood after --cov alone would be taken for what to measure.
	$(BIN)/python -m pytest tests/engine tests/rq --cov= --ignore=tests/engine/test_timeouts.py \
	  --ignore=tests/engine/test_heartbeat.py --ignore=tests/engine/test_cost_of_a_transition.py \
	  --cov-fail-under=100 $(ARGS)

services: ## install Redis, PostgreSQL and Chromium for the tests where they are missing (as root)
	@tools/install-services

screenshot: install services ## take the README's picture of the loading page anew
	FLOWROUTE_SCREENSHOT=docs/loading.png $(BIN)/python -m pytest tests/demo/test_shop.py -k live_progress

format: install ## format the code and apply ruff's safe corrections
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: install ## build the documentation into build/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going docs build/docs

lock: install ## write the locks anew after a change of pyproject.toml
	$(BIN)/python tools/lock.py write

upgrade: install ## the same, with the newest version of everything
	$(BIN)/python tools/lock.py write --upgrade

dist: install ## build the wheel and the source archive into dist
	rm -rf dist
	$(BIN)/hatchling build

clean: ## delete .venv and everything that was built
	rm -rf $(VENV) build dist .coverage .coverage.* .hypothesis .import_linter_cache
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# uv itself is pinned in the lock too: pip fetches that one package, checked by its hash.
$(BIN)/uv:
	@test -n '$(PYTHON)' || { echo 'no Python >= 3.11 on the PATH: install one, or set PYTHON=' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@awk '/^uv==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.lock > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(VENV)/uv.txt

# What the demo needs and no more, at the locked versions. A full installation contains it.
$(VENV)/.demo: pyproject.toml requirements.lock | $(BIN)/uv
	@test -e $(VENV)/.dev || { \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock hatchling editables && \
	  $(BIN)/uv pip install --python $(BIN)/python --constraint requirements.lock --no-build-isolation --editable '.[demo]'; }
	@test ! -e $(VENV)/.dev || $(MAKE) install
	@touch $@

$(VENV)/.dev: pyproject.toml requirements.lock | $(BIN)/uv
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# The peers that are measured beside come on top, from a lock of their own: no test needs them.
$(VENV)/.bench: bench.lock $(VENV)/.dev
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement bench.lock
	@touch $@
