# make run trains the default job, make test runs all checks and tests. Both install everything they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt # modules are compiled when first used
unexport PYTHONDONTWRITEBYTECODE # without compiled modules each start of lrflow takes half a second more

.PHONY: run test check prepared format data catalogue docs docs-serve clean

run: $(VENV)/installed
	$(BIN)/python -m lrflow

test: $(VENV)/installed-dev
	$(MAKE) -j 2 check prepared
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary

# Without data, the tests that need them are skipped. Without compiled modules, each process of tests would compile them.
prepared: $(VENV)/installed-dev
	-$(BIN)/python -m lrflow.data.fetch fashion_mnist wordnet
	-@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --collect-only --quiet >/dev/null

format: $(VENV)/installed-dev
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --quiet .

data: $(VENV)/installed
	$(BIN)/python -m lrflow.data.fetch fashion_mnist wordnet

catalogue: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python docs/catalogue.py
	OMP_NUM_THREADS=1 $(BIN)/python docs/recipes_of_the_field.py
	OMP_NUM_THREADS=1 $(BIN)/python docs/reproductions.py

# site/index.html is the first page; search needs a server. The variable silences a banner of the theme about MkDocs 2.
docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

docs-serve: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
