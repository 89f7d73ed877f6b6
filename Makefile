# `make demo` and `make test` are all a newcomer needs. Both run the set-up first (seconds if it is up to date).
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test quick evidence lint audit format wheel docs clean
BIN := .venv/bin
STEP := source scripts/step.sh; step
# Arguments of pytest, e.g. make test PYTEST="tests/lake -x"
PYTEST ?=
# Test processes, each with its own JVM. All tests of a file run in one process and share their fixtures.
WORKERS ?= 2

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## make the environment in .venv: packages, Horovod (built from source), Delta's jars
	@scripts/setup.sh

demo: setup ## run the whole pipeline on the embedded Online Retail data
	@$(STEP) "demo" $(BIN)/qarm run --config conf/demo.toml

lint: setup ## run ruff and mypy
	@$(STEP) "ruff check" $(BIN)/ruff check .
	@$(STEP) "ruff format" $(BIN)/ruff format --check .
	@$(STEP) "mypy" $(BIN)/mypy

test: lint ## run lint, types and the test suite
	@$(STEP) "pytest" $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 20 $(PYTEST)

quick: lint ## run lint, types and the tests that need neither Spark nor ranks
	@$(STEP) "pytest" $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		-m "not spark and not horovod and not cluster" $(PYTEST)

evidence: setup ## run the shipped configurations with three seeds each; print means and deviations
	@$(STEP) "evidence" $(BIN)/python -m qarm.evidence

audit: setup ## compare the installed packages with published advisories (needs PyPI)
	@$(STEP) "audit" scripts/audit.sh

format: setup ## sort imports, format
	@$(STEP) "ruff check --fix" $(BIN)/ruff check --select I --fix .
	@$(STEP) "ruff format" $(BIN)/ruff format .

wheel: setup ## build dist/qarm-*.whl, for spark-submit --py-files
	@rm -rf build dist
	@$(STEP) "wheel" $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build
	@ls dist

docs: setup ## write docs/tables.md from the schemas
	@{ printf '# Tables\n\nAll tables are Delta tables, defined in `schemas/`. `qarm tables` prints this page.\n\n'; $(BIN)/qarm tables; } > docs/tables.md

clean: ## remove the environment, builds and tool caches (not the wheel cache outside the clone)
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis spark-warehouse
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
