# On a fresh machine with Python 3.11 and make: `make demo` or `make test`. Nothing else is needed.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEV    := $(VENV)/.dev
TEST   := $(BIN)/python -m pytest -q -n auto --dist worksteal

.PHONY: demo test test-all test-oldest attack check lint types floors format clean
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

demo: $(READY)
	$(BIN)/layergroups demo --out demo-run

test: $(DEV)
	$(TEST)

test-all: $(DEV)
	$(TEST) -m 'slow or not slow'

test-oldest:
	PYTHON=$(PYTHON) scripts/test_oldest.sh

attack: $(DEV)
	LAYERGROUPS_ATTACK=20 $(TEST) -m slow tests/attack

check: lint types floors test-all

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

floors: $(DEV)
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-run .mypy_cache .ruff_cache .pytest_cache .hypothesis
