PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint format bench paper docs clean

# Stamp of the installation: renewed when the declared dependencies change.
$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rflbat needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "setting up $(VENV): takes minutes without output, 6.4 GB of disk"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/rflbat run

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 -m 'not slow'

# Ray and Flower are large, and only slow tests need them.
$(VENV)/installed-all: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[test,dev,ray,flower]'
	touch $@

test-all: $(VENV)/installed-all
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=engine:kernels $(BIN)/mypy -p rflbat -p rflbat_kernels

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.speed

paper: $(VENV)/installed
	$(BIN)/python -m benchmarks.paper

docs: $(VENV)/installed
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) docs/_build docs/methods build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
