# On a fresh machine with Python 3.11 and make: `make demo` or `make test`. Nothing else is needed.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEV    := $(VENV)/.dev
DOCS   := $(VENV)/.docs
TEST   := $(BIN)/python -m pytest -q -n auto --dist worksteal

.PHONY: demo test test-all test-oldest attack check lint types floors docs format clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml
	@echo "Installing PyTorch and the other dependencies into $(VENV): this takes some minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(DEV): $(READY)
	@echo "Installing the tools for the tests into $(VENV)."
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	touch $@

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[demo,docs]'
	touch $@

demo: $(READY)
	$(BIN)/layergroups demo --out demo-run
	@echo "The command is in $(BIN); to have it on your path: source $(BIN)/activate"

test: $(DEV)
	$(TEST)

test-all: $(DEV)
	$(TEST) -m 'slow or not slow'

test-oldest:
	PYTHON=$(PYTHON) scripts/test_oldest.sh

attack: $(DEV)
	LAYERGROUPS_ATTACK=20 $(TEST) -m slow tests/attack

check: lint types floors docs test-all

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

floors: $(DEV)
	$(BIN)/lint-imports

# Builds the site into site/, without network. Warnings are errors, those of griffe too, which reads the docstrings.
docs: $(DOCS)
	$(BIN)/python -m typer layergroups.cli._app utils docs --name layergroups --title "Command line" \
		--output docs/reference/command-line.md
	NO_COLOR=1 $(BIN)/python -m zensical build --clean --strict >$(VENV)/docs.log 2>&1 || { cat $(VENV)/docs.log; exit 1; }
	! grep "^griffe:" $(VENV)/docs.log
	@echo "The site is in site/index.html."

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-run site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
