# Everything here needs python3 (3.10 or later) and a C++20 compiler; the rest comes into .venv.
#
#   make demo       score the bundled texts with the bundled model
#   make test       the C++ tests, then the Python tests
#   make sanitize   the C++ tests under AddressSanitizer + UndefinedBehaviorSanitizer, and ThreadSanitizer
#   make model      spin looks at every state of the ring's protocol (needs spin: apt-get install spin)
#   make proof      the full size of every proof (long)
#   make gpu        the tests that need a CUDA device, plain and under compute-sanitizer (of the CUDA toolkit)
#   make style      linters, formatters, types, spelling, the stub
#   make dist       wheel and sdist, checked, and the wheel imported in a clean environment

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV)/bin)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# cmake and ninja come from .venv too.
export PATH := $(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || echo 2)

SOURCES := CMakeLists.txt README.md LICENSE $(shell find csrc python -type f \
             -not -name '*.so' -not -name '*.pyc' -not -name '.*')
CXX_FILES := $(shell find csrc tests/cpp -name '*.h' -o -name '*.cc' -o -name '*.cpp')

.PHONY: demo test cpp-test sanitize model proof gpu style dist clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/penstock demo

test: cpp-test $(VENV)/installed $(VENV)/tools
	$(BIN)/python -m pytest

cpp-test: $(VENV)/tools
	cd csrc && cmake --preset dev && cmake --build --preset dev && ctest --preset dev

sanitize: $(VENV)/tools
	cd csrc && cmake --preset asan && cmake --build --preset asan && ctest --preset asan
	cd csrc && cmake --preset tsan && cmake --build --preset tsan && ctest --preset tsan

model:
	$(PYTHON) tools/model.py

proof: $(VENV)/installed $(VENV)/tools
	$(BIN)/python -m pytest -m proof
	cd csrc && cmake --preset dev && cmake --build --preset dev --target ring_schedules ring_stress
	PENSTOCK_STRESS=20 build/csrc-dev/tests/ring_stress
	PENSTOCK_SCHEDULES=500000 build/csrc-dev/tests/ring_schedules
	$(PYTHON) tools/model.py --full

gpu: $(VENV)/installed $(VENV)/tools
	$(BIN)/python -m pytest -m gpu
	compute-sanitizer --error-exitcode 1 $(BIN)/python -m pytest -m gpu tests/python/test_staging_gpu.py

style: $(VENV)/installed $(VENV)/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python tools/stub.py --check

# The package imports without its dependencies, so a clean environment needs nothing but the wheel.
dist: $(VENV)/tools
	rm -rf dist build/wheel-check
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python tools/check_dist.py dist
	$(PYTHON) -m venv build/wheel-check
	build/wheel-check/bin/python -m pip --disable-pip-version-check --quiet install --no-deps dist/*.whl
	cd build/wheel-check && bin/python -c "import penstock._core; print('imports from', penstock.__file__)"

clean:
	rm -rf build dist $(VENV)

# ---- the environment: each file is a stamp ------------------------------------------------------

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	touch $@

# What building needs, once; then the package can be built without isolation.
$(VENV)/builders: pyproject.toml | $(VENV)/created
	$(PIP) install --group build
	touch $@

# A regular install, not an editable one: tests see what users get, missing files included. Without
# isolation, and with a build folder that stays, so that only what has changed is compiled again.
$(VENV)/installed: $(VENV)/builders pyproject.toml constraints.txt $(SOURCES)
	$(PIP) install -c constraints.txt --no-build-isolation -C build-dir=build/venv \
	  -C cmake.define.PENSTOCK_WERROR=ON .
	touch $@

$(VENV)/tools: pyproject.toml constraints.txt | $(VENV)/installed
	$(PIP) install -c constraints.txt --group dev
	touch $@
