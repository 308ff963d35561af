# Each target does its own set-up, once: a virtual environment in .venv with the project in it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-gpu test-engines tables figures report bench bench-streaming check reproduce-tables reproduce-cifar10-cpu status bundle clean

quickstart: .venv/installed
	$(BIN)/swa-train +experiment=quickstart
	@echo "Learning curves:"
	@$(BIN)/swa-figures --records results/runs/cifar10_mini

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy swa_bench scripts tests/test_gpu.py  # no GPU runs the latter here
	$(BIN)/mypy models
	$(BIN)/pytest

# The tests that need a GPU; the others never use one.
test-gpu: .venv/installed
	TEST_GPU=1 $(BIN)/pytest -n 0 -m gpu

# The tests that take minutes: fifty kills, Ray, and a real Slurm that is started for it, which takes
# root on Debian or Ubuntu.
test-engines: .venv/engines
	$(BIN)/pytest -n 0 -m slow

tables: .venv/installed
	@$(BIN)/swa-tables

figures: .venv/installed
	@$(BIN)/swa-figures

report: .venv/installed
	@$(BIN)/swa-report

# Whether this machine trains as it should, in about a minute: make check ARGS="--models vgg16"
check: .venv/installed
	@$(BIN)/swa-check $(ARGS)

# ARGS may name networks and options: make bench ARGS="--models vgg16"
bench: .venv/installed
	@$(BIN)/python scripts/bench.py $(ARGS)

# How fast images stream from their files, and what limits it: in two minutes on two cores.
bench-streaming: .venv/installed
	@$(BIN)/python scripts/bench_streaming.py $(ARGS)

# What is done, running, failed and missing, from what is on disk: your runs, and a grid.
status: .venv/installed
	@$(BIN)/swa-status --grid $(GRID)

# GRID is cifar, imagenet, extra, cifar10_cpu or cifar10_cpu_more; ARGS are options of swa-train for every run:
# make reproduce-tables GRID=extra ARGS="precision=bf16"
reproduce-tables: .venv/installed
	@$(BIN)/python scripts/reproduce_tables.py $(or $(GRID),cifar) $(ARGS)

# SGD and SWA on all of CIFAR-10 without a GPU, beside the shipped records: it says how long that takes here,
# and goes on where it was stopped.
reproduce-cifar10-cpu: .venv/installed
	@$(BIN)/python scripts/reproduce_tables.py cifar10_cpu $(ARGS)

# Wheels and data sets for a node without network: make bundle ARGS="--python-version 3.12"
bundle: .venv/installed
	@$(BIN)/python scripts/bundle.py $(ARGS)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	@touch $@

.venv/engines: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,ray,slurm]' --constraint constraints.txt
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
