# Everything runs in the project's own virtual environment, made on first use.
#   make demo       a private table to a synthetic one, with its report, in demo-output/
#   make test       the tests
#   make lint       formatters, linters, types, stubs
#   make docs       guides and reference as pages, in build/docs; warnings are errors
#   make stubs      write python/dpslice/_core.pyi anew, after a change of the bindings
#   make sanitize   the kernel tests under AddressSanitizer and UndefinedBehaviorSanitizer,
#                   or another with SANITIZERS=thread
#   make bench      benchmarks against what one would use instead, and their report
#   make instructions  instruction counts of the kernels against the committed ones
#   make wheel      a wheel in dist/
#   make clean      remove what the targets above made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# OpenMP threads that wait actively starve one another on a machine that does other things too.
export OMP_WAIT_POLICY ?= passive

SOURCES := pyproject.toml CMakeLists.txt constraints.txt README.md \
  $(shell find csrc cuda python -type f -not -name '*.so' -not -name '*.pyc')

.PHONY: demo test lint docs sanitize bench instructions wheel stubs clean

demo: $(VENV)/.demo
	$(BIN)/dpslice demo --out demo-output --overwrite

# One process a core, each of one thread (tests of threads ask for theirs).
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --benchmark-disable -n auto --dist worksteal $(PYTEST_ARGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip

# What builds the package lies beside it: an environment that pip makes for a build is another one
# each time, for which every kernel is compiled again.
$(VENV)/.build: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) scikit-build-core pybind11 cmake ninja
	touch $@

$(VENV)/.demo: $(SOURCES) $(VENV)/.build
	$(INSTALL) --no-build-isolation '.[demo]'
	touch $@

$(VENV)/.dev: $(SOURCES) $(VENV)/.build
	$(INSTALL) --no-build-isolation '.[all,dev,docs]'
	touch $@ $(VENV)/.demo

# ------------------------------------------------------------------------------------ checks

lint: $(VENV)/.dev
	$(BIN)/ruff check python tests bench examples docs
	$(BIN)/ruff format --check python tests bench examples docs
	$(BIN)/codespell *.md docs csrc cuda python tests bench examples
	$(BIN)/mypy
	find csrc cuda tests/cuda_emulator -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/python tests/tools/check_stubs.py

# Pages of single names are written beside the others, and last no longer than their names.
docs: $(VENV)/.dev
	rm -rf docs/reference/generated
	$(BIN)/python -m sphinx -b html -n -W --keep-going -q -d build/doctrees docs build/docs

stubs: $(VENV)/.dev
	$(BIN)/python tests/tools/check_stubs.py --write

sanitize: $(VENV)/.dev
	bash tests/tools/sanitize.sh $(BIN)/python $(SANITIZERS)

bench: $(VENV)/.dev
	$(BIN)/python bench/run.py $(BENCH_ARGS)

instructions: $(VENV)/.dev
	$(BIN)/python bench/instructions.py $(WRITE)

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf build dist docs/reference/generated demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks $(VENV)
