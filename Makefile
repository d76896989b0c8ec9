# make demo | test | test-all | lint | bench | study | docs | package | clean; needs Python >= 3.11 and sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
WORKERS := --numprocesses auto --maxprocesses 4 --dist worksteal

# Python keeps what it compiles; otherwise each of the tests' processes would compile it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all lint bench study docs package clean

# One thread: with more, threads wait for each other longer than so small a network computes.
demo: $(VENV)/demo
	rm -rf runs/demo
	OMP_NUM_THREADS=1 $(BIN)/tsslbp train digits --out runs/demo

test: $(VENV)/installed
	$(BIN)/python -m pytest $(WORKERS) -m "not slow" $(ARGS)

# Also what is long by nature. It names the longest tests, which decide how long the suite takes.
test-all: $(VENV)/docs
	$(BIN)/python -m pytest $(WORKERS) --durations=40 $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python benchmarks/run.py $(ARGS)

# The page on the reproduction study, its figures and the README's table, from the records alone.
study: $(VENV)/installed
	PYTHONPATH=research $(BIN)/python -m study

# The documentation's site, in build/site.
docs: $(VENV)/docs
	$(BIN)/python docs/site.py $(ARGS)

# What a release uploads, in dist/, and whether it is in order.
package: $(VENV)/docs
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist

clean:
	rm -rf $(VENV) runs/demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# What the demo uses, and no more. Python compiles what it imports, not pip all that there is.
$(VENV)/demo: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (less than a minute, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --no-compile --constraint constraints.txt --editable '.[figures]'
	@touch $@

$(VENV)/installed: $(VENV)/demo tests/requirements.txt
	@echo "Installing what the tests need (a minute or two, once)"
	@$(PIP) install --no-compile --constraint constraints.txt --editable '.[cluster,exchange,gpu,interactive,lint,mlflow,study,tensorboard,test,wandb]'
	@$(PIP) install --no-compile --no-deps --requirement tests/requirements.txt
	@touch $@

$(VENV)/docs: $(VENV)/installed
	@echo "Installing what the documentation and a release need (less than a minute, once)"
	@$(PIP) install --no-compile --constraint constraints.txt --editable '.[docs,release]'
	@touch $@
