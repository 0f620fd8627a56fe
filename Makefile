# make demo    the whole road on the embedded clips, about three minutes on two cores
# make test    every test; `make test PYTEST="-m 'not slow'"` is the quick part
# make lint    ruff and pyrefly
# make docs    the site of the documents, into site/
# make notebooks  runs the notebooks on CPU and keeps their outputs
# make parity  installs PyTorch; tests that compare with it are skipped by name without

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
# More flags for the demo's rendering and training, such as DEMO_TRAIN=--config.seed=1
DEMO_CLIPS ?=
DEMO_TRAIN ?=

# Told before there is an environment of a version that the package refuses
KNOWN = $(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else \
  "error: $(PYTHON) is Python %d.%d; take one of 3.11 to 3.13: make PYTHON=python3.12" % sys.version_info[:2])'

.PHONY: demo test lint docs notebooks parity clean

demo: $(VENV)/.run
	$(BIN)/python data/synthesize.py --out=$(DEMO)/sprites $(DEMO_CLIPS)
	$(BIN)/python data/prepare.py --dataset=folder --videos=$(DEMO)/sprites --out=$(DEMO)/shards --size=72x72
	$(BIN)/python main.py --config=configs/quickstart.py --config.data.dir=$(DEMO)/shards --workdir=$(DEMO)/run $(DEMO_TRAIN)

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

docs: $(VENV)/.dev
	$(BIN)/python docs/figures.py --out=docs/figures
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir=site

notebooks: $(VENV)/.dev
	$(BIN)/python notebooks/execute.py

$(VENV)/.run: pyproject.toml
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { $(KNOWN) && $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[all]"
	touch $@

# PyTorch, for the tests and benchmarks that compare with it
parity: $(VENV)/.parity

$(VENV)/.parity: requirements-parity.txt $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-parity.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) site
