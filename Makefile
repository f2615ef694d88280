# make train   set everything up and train the embedded example
# make test    set everything up, lint, and run every test
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup train test lint docs lock clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(VENV)/.ready  ## create .venv with the locked versions (the other targets do this by themselves)

train: setup  ## train a HiPPO-LegS network on scikit-learn's digits (about a minute)
	$(BIN)/python train.py experiment=digits

test: lint  ## lint, type check, and run every test
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: setup  ## ruff, pyrefly, and whether results/ and README fit the records
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/python scripts/collect.py --check

docs: setup  ## write the documentation to site/; a broken link or an example that fails is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lock: setup  ## write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 \
	    --generate-hashes --no-annotate --no-header --upgrade --quiet --output-file requirements.lock

clean:  ## remove .venv and caches; runs and results stay
	rm -rf $(VENV) .pytest_cache .ruff_cache

# uv installs the locked wheels about five times faster than pip; where it is not on the PATH, pip fetches the locked one.
$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "hippo needs Python 3.10 or newer; choose one with: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	    { echo "Python's venv module is missing; on Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\]$$/p' requirements.lock > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --require-hashes --disable-pip-version-check -r $(VENV)/uv.txt
	$(BIN)/uv pip sync --compile-bytecode --quiet --require-hashes --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	touch $@
