# Two commands: `make report` writes the subspace-alignment report from the adapters that ship with the package;
# `make test` runs every check and builds the site. Both make .venv on a fresh machine, under the pinned versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= report.html

.PHONY: report test lint docs check-all figures notebooks clean

report: $(VENV)/.installed
	$(BIN)/asym report --out $(OUT)

test: lint docs
	$(BIN)/python -m pytest -n 2 --dist loadfile
	$(BIN)/python -m pytest --override-ini addopts= -n 2 --nbmake --nbmake-timeout=300 notebooks

lint: $(VENV)/.installed-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry .
	$(BIN)/towncrier build --draft > /dev/null
	$(BIN)/codespell asym_analysis tests benchmarks docs changes README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md

# Every Python that the machine has, the oldest dependencies, a random seed, coverage, wheel and source distribution.
check-all: $(VENV)/.installed-tests
	$(BIN)/nox

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-tests: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[finetune,gguf,cluster,neighbours]" \
		--group lint --group test --group samples --group docs --group check
	touch $@

docs: $(VENV)/.installed-tests
	$(BIN)/python docs/api_names.py --check
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

figures: $(VENV)/.installed-tests
	$(BIN)/python figures/initialization.py
	$(BIN)/python figures/least_squares.py
	$(BIN)/python figures/variants.py
	$(BIN)/python figures/asymmetry_index.py draw
	$(BIN)/python figures/sst2_decide.py
	$(BIN)/python benchmarks/in_the_wild.py

notebooks: $(VENV)/.installed-tests
	$(BIN)/jupytext --quiet --to ipynb --update notebooks/*.py
	$(BIN)/python -m pytest --override-ini addopts= -n 2 --nbmake --nbmake-timeout=300 --overwrite notebooks

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
