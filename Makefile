# The two commands of the README. Each builds .venv when it is missing or pyproject changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test lint types unit bench bench-peers clean

demo: $(VENV)/core.stamp
	$(BIN)/kvsim demo

test: lint types unit

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev,calibrate]'
	touch $@ $(VENV)/core.stamp

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type checkers do not see through an editable install, so the built wheel is what is checked.
types: $(VENV)/dev.stamp
	$(BIN)/python tests/check_wheel_types.py

unit: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n auto

bench: $(VENV)/dev.stamp
	$(BIN)/python -m tests.bench

# Installs the peers from the package index into an environment of their own.
bench-peers: $(VENV)/dev.stamp
	$(BIN)/python -m tests.bench.peers

clean:
	rm -rf $(VENV) build dist *.egg-info
