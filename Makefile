# make run trains the default job, make test runs all checks and tests. Both install everything they need first.
PYTHON ?= python3
VENV := .venv
FLOWER := .venv-federated
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt # modules are compiled when first used
unexport PYTHONDONTWRITEBYTECODE # without compiled modules each start of lrflow takes half a second more

.PHONY: run test test-federated check prepared format data catalogue docs docs-serve clean

run: $(VENV)/installed
	$(BIN)/python -m lrflow

test: $(VENV)/installed-dev
	$(MAKE) -j 2 check prepared
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal

# The recipe federated on Flower, which make test leaves out: about a minute of CPU time, besides the installation.
test-federated: $(VENV)/installed-dev $(FLOWER)/installed
	LRFLOW_TEST_FEDERATED=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/recipes/test_federated_on_flower.py

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

# What Flower excludes is installed in its own version; the rest comes from $(VENV), behind it on the path.
$(FLOWER)/installed: pyproject.toml $(VENV)/installed
	test -x $(FLOWER)/bin/python || $(PYTHON) -m venv $(FLOWER)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(FLOWER)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/behind.pth
	$(FLOWER)/bin/python -m pip install --quiet --no-compile --editable '.[federated]'
	touch $@

clean:
	rm -rf $(VENV) $(FLOWER) build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
