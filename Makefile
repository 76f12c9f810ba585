# The commands of the README. Each sets up what it needs in $(VENV), once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# As a variable the constraints reach what builds the package as well.
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check
TESTS ?= tests
FUZZ_CALLS ?= 100000
# What the reference's run may leave out: tests that run both forms themselves, or neither.
REFERENCE := $(addprefix --ignore tests/,examples benchmarks test_rows.py test_packaging.py test_hooks.py)

.PHONY: demo test test-reference check lint docs fuzz bench study test-sparse clean

demo: $(VENV)/.examples ## train the classifier on the embedded dataset, about two minutes
	$(BIN)/python -m examples.classification --out runs/demo

test: $(VENV)/.test ## all tests
	$(BIN)/python -m pytest $(TESTS)

test-reference: $(VENV)/.test ## the package's tests without its native part
	GUMBELPOOL_BACKEND=reference $(BIN)/python -m pytest $(REFERENCE)

check: lint docs test ## format, lint, types, the site, and all tests

fuzz: $(VENV)/.test ## 100,000 random calls, half an hour; FUZZ_CALLS=10000 for less
	FUZZ_CALLS=$(FUZZ_CALLS) $(BIN)/python -m pytest tests/test_fuzz.py

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.docs ## the site, its tutorials executed: build/site/index.html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs build/site

bench: $(VENV)/.bench ## every peer and case, hours: docs/results.md; BENCH="--cases wide --rounds 1" for less
	$(BIN)/python -m benchmarks.speed.bench $(BENCH)

study: $(VENV)/.bench ## every pooler on every dataset, hours, resumable; STUDY="--root DIR --splits DIR --only main" for less
	$(BIN)/python -m benchmarks.study $(STUDY)

# What runs only where the extras are installed: SparseTensor, torch-geometric-pool, GraphGym, captum, ONNX.
EXTRAS := $(addprefix tests/test_,adjacency.py ecosystem.py graphgym.py graphs_out.py packaging.py tgp.py)
test-sparse: $(VENV)/.sparse ## the tests of the extras; compiles torch-scatter and torch-sparse, some minutes
	GUMBELPOOL_REQUIRE_SPARSE=1 $(BIN)/python -m pytest $(EXTRAS)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# An environment is made again only when what it is made from changes.
SOURCES := pyproject.toml constraints.txt CMakeLists.txt gumbelpool/rows/native.cpp
$(VENV)/.examples $(VENV)/.test $(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: $(SOURCES) | $(BIN)/python
	$(PIP) -e ".[$*]"
	touch $@

# Both packages need torch at build time, hence without build isolation; debug symbols would take
# half of the compiler's time.
$(VENV)/.sparse: $(VENV)/.test
	$(PIP) setuptools wheel
	CFLAGS=-g0 $(PIP) --no-build-isolation torch-scatter torch-sparse
	$(PIP) -e ".[graphgym,sparse,tgp]" captum onnx onnxscript tabulate
	touch $@

# torch-geometric-pool is one of the peers; it needs torch-scatter.
$(VENV)/.bench: $(VENV)/.examples
	$(PIP) setuptools wheel
	CFLAGS=-g0 $(PIP) --no-build-isolation torch-scatter
	$(PIP) torch-geometric-pool
	touch $@

clean: ## remove the environment and the site
	rm -rf $(VENV) build/site
