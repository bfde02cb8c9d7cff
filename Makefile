# Everything sets itself up: `make demo` and `make test` work on a fresh machine.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet
# torch first and pinned: an open range would fetch gigabytes of GPU libraries on a machine without one.
TORCH ?= torch==2.13.0
DEMO := demo

.PHONY: help env slurm demo readme test test-ci test-slurm test-full browser check bench bench-collect overhead gpu-check parity ledgers pipelines plan proof faults soak bench-submit bench-status bench-plan clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

env: $(VENV)/.ready  ## Make the virtual environment in .venv

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("hpcpar needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=25.1'
	$(PIP) '$(TORCH)'
	$(PIP) --editable '.[torch,deepspeed,xgboost-cpu,dask,parquet,report]' --group dev
	touch $@

slurm: env  ## Install Slurm for the tests, where it is missing and may be installed
	@$(BIN)/python examples/slurm-cluster check || $(BIN)/python examples/slurm-cluster install || echo "going on without Slurm: its tests will be skipped by name"

demo: env  ## Run a real study on this machine and print its scaling table
	@rm -rf $(DEMO)
	$(BIN)/hpcpar submit jobs/quickstart.toml --cluster local --runs $(DEMO)/runs --wait
	$(BIN)/hpcpar collect $(DEMO)/runs --out $(DEMO)/report

readme: demo  ## Put what the demo made into README.md (on a quiet machine)
	$(BIN)/python docs/make_readme_example.py $(DEMO)

check: env  ## Lint, types, layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Three parts side by side: tests on Slurm and of several processes mostly wait. What they printed comes at the end.
test: env slurm  ## The tests, real Slurm included (under 10 minutes on two cores)
	@set -m
	logs=$$(mktemp -d)
	$(BIN)/python -m pytest -m 'not full and slurm' > $$logs/slurm 2>&1 & on_slurm=$$!
	$(BIN)/python -m pytest -m 'not full' tests/parallel > $$logs/parallel 2>&1 & in_parallel=$$!
	trap 'kill -INT $$on_slurm $$in_parallel 2> /dev/null && wait; rm -rf $$logs' EXIT
	code=0
	$(BIN)/python -m pytest -m 'not full' tests/unit tests/contract tests/packaging || code=$$?
	echo 'Tests of several processes:'
	wait $$in_parallel || code=$$?
	cat $$logs/parallel
	echo 'Tests on the real Slurm:'
	wait $$on_slurm || code=$$?
	cat $$logs/slurm
	exit $$code

test-ci: check test  ## What CI runs: lint, types, layering, tests, the demo, a wheel
	$(MAKE) --no-print-directory demo
	$(BIN)/python -m pytest -m full tests/packaging

test-slurm: env slurm  ## The long tests on the real Slurm: every strategy, studies with and without accounting, faults
	$(BIN)/python -m pytest -m 'full and slurm'

test-full: env slurm browser  ## Everything, the long ones too
	$(BIN)/python -m pytest

bench: env  ## Measure start-up side by side (ratios of one run, not a test)
	$(BIN)/python benchmarks/startup.py

bench-collect: env  ## Measure collect beside bare readers (10,000 runs, 1.2 GB in a temporary folder, some minutes)
	$(BIN)/python benchmarks/collect.py

bench-submit: env slurm  ## Measure submit beside raw sbatch and submitit, on a Slurm of its own
	$(BIN)/python benchmarks/submit.py

bench-status: env  ## Measure status of 10,000 runs, and count its calls
	$(BIN)/python benchmarks/status.py

faults: env slurm  ## Inject every fault into runs on a real Slurm (docs/reliability.md; root); ONLY=slurmctld some of them
	$(BIN)/python docs/make_reliability.py $(if $(ONLY),--only '$(ONLY)')

soak: env slurm  ## 1,000 runs on a real Slurm while things break at random; RUNS=50 fewer, SEED=7 others
	$(BIN)/python tests/slurm/soak.py $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED))

overhead: env  ## Measure the training loop beside loops written by hand (on a quiet machine, some 40 minutes)
	$(BIN)/python benchmarks/overhead.py

gpu-check: env  ## What only a GPU can show: strategies under NCCL, bf16, llama-1b (says so where there is none)
	$(BIN)/python benchmarks/gpu_check.py

parity: env  ## Every strategy beside one process (docs/parity.md); PLANT=1 plants a wrong gradient, ONLY=tp some rows
	$(BIN)/python docs/make_parity.py $(if $(PLANT),--plant) $(if $(ONLY),--only '$(ONLY)')

ledgers: env  ## Bytes that ranks hold and move, beside their formulas (docs/sharding.md, docs/communication.md)
	$(BIN)/python docs/make_ledgers.py

pipelines: env  ## Bubbles and kept activations, measured (docs/pipelines.md; on a quiet machine)
	$(BIN)/python benchmarks/pipelines.py

bench-plan: env  ## Measure what a plan of llama-7b costs a login node
	$(BIN)/python benchmarks/plan.py

plan: env  ## Memory and time that a plan predicts, beside measured and published ones (docs/plan.md); ONLY=time RUNS=folder
	$(BIN)/python docs/make_plan.py $(if $(ONLY),--only '$(ONLY)') $(if $(RUNS),--runs '$(RUNS)') $(if $(FEW),--few '$(FEW)')

proof: parity ledgers pipelines  ## All of docs/ that is counted or measured about strategies

clean:  ## Remove what was made here, the environment too
	rm -rf $(VENV) $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
