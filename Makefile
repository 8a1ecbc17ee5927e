# Two commands do all set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_PROCESSES ?= 2

.PHONY: demo test lint types unit suites fuzz decoders simulate chaos users matrix stalls bench bench-engines clean

# The environment is made anew when the package's dependencies change.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/apiary demo

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

# Two files of tests at a time; files in the order of their names, or a long one may be left to the end alone.
unit: $(STAMP)
	$(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Every query of every suite at every partition count; `unit` runs each at one or two of them.
suites: $(STAMP)
	$(BIN)/python -m tests.suite

# Ten thousand random queries against plain DataFusion, against themselves (TLP), against DuckDB.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz

# A hundred thousand worlds in virtual time: nodes, coordinators and the store fail as each one's seed says.
simulate: $(STAMP)
	$(BIN)/python -m tests.simulation

# Two hundred kills of nodes at work, on a folder and on an S3 service; every answer compared.
chaos: $(STAMP)
	$(BIN)/python -m tests.chaos --storage folder --kills 200
	$(BIN)/python -m tests.chaos --storage s3 --kills 200

# Thirty-two sessions at a time on one swarm, and a few beside one that asks for twenty-four queries at once.
users: $(STAMP)
	$(BIN)/python -m tests.users --sessions 32 --queries 500
	$(BIN)/python -m tests.users --sessions 8 --queries 128 --greedy 24

# Hostile bytes for everything that is decoded out of storage.
decoders: $(STAMP)
	$(BIN)/python -m tests.decoders --minutes 10

# Every fault at every place of the protocol, in every shape of query; `unit` runs most in one shape.
matrix: $(STAMP)
	$(BIN)/python -m tests.matrix

# Every test on a machine that stands still for seconds now and then, in whole and in part.
stalls: $(STAMP)
	$(BIN)/python -m tests.stalls -- --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m tests.stalls --some -- --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# TPC-H on the swarm, on plain DataFusion and on DuckDB, in turn; answers compared.
bench: $(STAMP)
	$(BIN)/python -m benchmarks run --suite tpch --scale 1 --json .bench/tpch.json --plot .bench/tpch.png

# Sail, Daft and Spark in an environment of their own, where `python -m benchmarks run --engines all` finds them.
bench-engines: $(STAMP)
	$(PYTHON) -m venv .bench/engines
	.bench/engines/bin/pip install --quiet --editable '.[bench-sail,bench-daft,bench-spark]'

clean:
	rm -rf $(VENV) .demo .bench .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis
