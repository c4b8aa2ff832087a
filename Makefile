# Set-up and the two commands of the README; everything else is a verb of the installed `nutshell` command.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: install demo test lint clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/nutshell demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell src tests benchmarks tools docs README.md CHANGELOG.md CONTRIBUTING.md
	PATH=$(BIN):$$PATH $(BIN)/basedpyright
	$(BIN)/lint-imports

# One process a core, one thread each; a file's tests stay together, for they share what is slow to make; the order is
# that of tests/conftest.py, the longest first.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

clean:
	rm -rf $(VENV) build dist src/*.egg-info
