# Wardround: `make demo` and `make test` set everything up by themselves (Python 3.11 to 3.13, and make).

PYTHON ?= python3
SEED ?= 1
N ?= 10000
BIN := .venv/bin
WORKERS ?= 2

.PHONY: help demo test check fix bench bench-robust bench-flamby bench-private docs replay simulate clean

help:             ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ –/'

demo: .venv/demo  ## four hospitals and a hub on this machine; make demo ARGS="--data heart"
	$(BIN)/wardround demo $(ARGS)

test: .venv/dev .venv/system  ## every test: units, contracts, 2,000 simulated worlds, real processes
	$(BIN)/python -m pytest -n $(WORKERS) -q $(ARGS)

check: .venv/dev .venv/system  ## lint, types and layers, then every test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports
	$(BIN)/python -m pytest -n $(WORKERS) -q $(ARGS)

fix: .venv/dev    ## format, and repair what can be repaired
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: .venv/dev  ## the numbers of docs/explanation/performance.md
	$(BIN)/python -m benchmarks $(ARGS)

bench-robust: .venv/dev  ## every aggregation rule beside every attack, on real records
	$(BIN)/python -m benchmarks.robust $(ARGS)

bench-flamby: .venv/dev  ## every strategy on natural federations, beside FLamby's published tables
	$(BIN)/python -m benchmarks.flamby $(ARGS)

bench-private: .venv/dev  ## what privacy costs in accuracy: heart disease and chest X-rays at several epsilons
	$(BIN)/python -m benchmarks.private $(ARGS)

docs: .venv/dev   ## the documents as HTML in docs/_build
	$(BIN)/python docs/generate.py && $(BIN)/sphinx-build -nW docs docs/_build

replay: .venv/dev ## one simulated world again: make replay SEED=17
	$(BIN)/python -m tests.simulation.replay --seed $(SEED)

simulate: .venv/dev ## many simulated worlds: make simulate N=100000
	$(BIN)/python -m tests.simulation.replay --count $(N)

clean:            ## remove the environment and what was made
	rm -rf .venv demo-data demo-report.html docs/_build

.venv/python:
	$(PYTHON) -m venv .venv
	@touch $@

.venv/demo: .venv/python requirements/demo.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/demo.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/dev: .venv/python requirements/dev.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@ .venv/demo

# Programs that some tests run; where they cannot be installed those tests are skipped, and say so.
.venv/system: .venv/python
	@if ! { command -v bwrap && command -v softhsm2-util; } >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends bubblewrap softhsm2; \
	  fi >/dev/null 2>&1 || true; \
	  command -v bwrap >/dev/null || echo "bubblewrap is not installed: tests of the sandbox will be skipped"; \
	  command -v softhsm2-util >/dev/null || echo "softhsm2 is not installed: tests of PKCS#11 will be skipped"; \
	fi
	@touch $@
