# `make demo` and `make test` are all a newcomer needs; both do the set-up first (seconds, once it is done).
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test quick evidence lint format wheel docs clean
BIN := .venv/bin
STEP := source scripts/step.sh; step
# Arguments of pytest, e.g. make test PYTEST="tests/lake -x"
PYTEST ?=
# Two processes, each with a JVM of its own; a file's tests share their fixtures.
WORKERS ?= 2

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## environment in .venv: packages, Horovod built from its sdist, Delta's jars
	@scripts/setup.sh

demo: setup ## the whole pipeline on the embedded Online Retail data
	@$(STEP) "demo" $(BIN)/qarm run --config conf/demo.toml

lint: setup ## ruff and mypy
	@$(STEP) "ruff check" $(BIN)/ruff check .
	@$(STEP) "ruff format" $(BIN)/ruff format --check .
	@$(STEP) "mypy" $(BIN)/mypy qarm

test: lint ## lint, types and the test suite
	@$(STEP) "pytest" $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 20 $(PYTEST)

quick: lint ## lint, types and the tests that need neither a JVM nor ranks
	@$(STEP) "pytest" $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		-m "not spark and not horovod and not cluster" $(PYTEST)

evidence: setup ## the shipped configurations with three seeds each: means and deviations
	@$(STEP) "evidence" $(BIN)/python -m qarm.evidence

format: setup ## sort imports, format
	@$(STEP) "ruff check --fix" $(BIN)/ruff check --select I --fix .
	@$(STEP) "ruff format" $(BIN)/ruff format .

wheel: setup ## dist/qarm-*.whl, for spark-submit --py-files
	@rm -rf build dist
	@$(STEP) "wheel" $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build
	@ls dist

docs: setup ## docs/tables.md, from the schemas
	@{ printf '# Tables\n\nAll are Delta tables, made from `schemas/`; `qarm tables` prints this page.\n\n'; $(BIN)/qarm tables; } > docs/tables.md

clean: ## remove the environment, builds and caches of tools (not the wheel cache outside the clone)
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis spark-warehouse
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
