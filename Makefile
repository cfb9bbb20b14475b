# The front door: `make test` and `make bench` work in a fresh clone. PYTHON is the interpreter of the environment.
PYTHON ?= python3
BIN := .venv/bin
# With a compiler a build that fails is an error; without one the pure-TensorFlow forms are installed, and say so.
BUILD := $(if $(shell command -v $(CXX) 2>/dev/null),FUSEDSPLIT_FORCE_BUILD=1,FUSEDSPLIT_SKIP_BUILD=)
PY_FILES := setup.py fusedsplit tests benchmarks
CC_FILES = $(shell find csrc tests -name '*.cc' -o -name '*.h')

.PHONY: all venv native test test-full test-matrix bench bench-peers bench-fit lint format ulp selftest sanitize sanitize-files fuzz aarch64 clean
all: test

venv: .venv/installed

# pip would compile the C++ in a temporary folder, where `native` finds none of it, and the bytecode on one CPU (some
# packages bring files of other Pythons, which do not compile).
PIP_INSTALL := FUSEDSPLIT_SKIP_BUILD=1 FUSEDSPLIT_FORCE_BUILD= $(BIN)/python -m pip install --no-compile
BUILD_NATIVE := $(BUILD) $(BIN)/python setup.py -q build_ext --inplace
COMPILE_PYTHON := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true

# The environment is made anew only when what it is made from changes; `native` keeps the libraries up to date.
.venv/installed: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade pip
	$(PIP_INSTALL) -e '.[test,bench]'
	$(COMPILE_PYTHON)
	$(BUILD_NATIVE)
	touch $@

native: venv
	$(BUILD_NATIVE)

test: native
	$(BIN)/python -m pytest -q -n auto --dist worksteal $(PYTEST_ARGS)

# Every case of every grid, those too that `make test` leaves out for their time.
test-full: native
	FUSEDSPLIT_OP_TRIES=10000 $(BIN)/python -m pytest -q -n auto --dist worksteal -m "" $(PYTEST_ARGS)

# One wheel, the core tests, in fresh environments with older and newer TensorFlow and Keras.
test-matrix: venv
	$(BIN)/python tests/matrix.py $(MATRIX_ARGS)

bench: native
	$(BIN)/fusedsplit bench $(BENCH_ARGS)

# The peers are large, so they are installed only for the programs that race them (PEERS= for what is there already).
PEERS := .venv/peers
.venv/peers: .venv/installed
	$(PIP_INSTALL) -e '.[bench,peers]'
	$(COMPILE_PYTHON)
	$(BUILD_NATIVE)
	touch $@

# A trained model's answer by every runtime; a training step by every framework.
bench-peers: native $(PEERS)
	$(BIN)/python benchmarks/peers.py $(BENCH_ARGS)

bench-fit: native $(PEERS)
	$(BIN)/python benchmarks/fit.py $(BENCH_ARGS)

lint: venv
	$(BIN)/ruff format --check $(PY_FILES)
	$(BIN)/ruff check $(PY_FILES)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CC_FILES)
	FUSEDSPLIT_WERROR=1 $(BUILD) $(BIN)/python setup.py -q build_ext --build-lib build/lint

format: venv
	$(BIN)/ruff format $(PY_FILES)
	$(BIN)/ruff check --fix $(PY_FILES)
	$(BIN)/clang-format -i $(CC_FILES)

# The error of every activation on every float32, on every ISA that the machine has.
ulp: venv
	$(BIN)/python setup.py -q build_program --name ulp
	build/programs/ulp $(ULP_ARGS)

selftest: venv
	$(BIN)/python setup.py -q build_program --name selftest
	build/programs/selftest $(SELFTEST_ARGS)

# The core's own checks, with its assertions, under the sanitizers of addresses, undefined behaviour and threads.
sanitize: venv
	CXXFLAGS="-O1 -g -U_FORTIFY_SOURCE -DFUSEDSPLIT_ASSERTIONS -fsanitize=address,undefined -fno-sanitize-recover=all" \
	    $(BIN)/python setup.py -q build_program --name selftest --target build/programs/selftest-address
	CXXFLAGS="-O1 -g -U_FORTIFY_SOURCE -DFUSEDSPLIT_ASSERTIONS -fsanitize=thread" \
	    $(BIN)/python setup.py -q build_program --name selftest --target build/programs/selftest-thread
	build/programs/selftest-address $(SELFTEST_ARGS)
	build/programs/selftest-thread $(SELFTEST_ARGS)

# 100,000 damaged and forged files of predictors, read and run with the core under the sanitizers.
FILE_TRIES ?= 50000
sanitize-files: venv
	CXXFLAGS="-O1 -g -U_FORTIFY_SOURCE -DFUSEDSPLIT_ASSERTIONS -fsanitize=address,undefined -fno-sanitize-recover=all" \
	    FUSEDSPLIT_FORCE_BUILD=1 $(BIN)/python setup.py -q build --build-temp build/sanitized-temp --build-lib build/sanitized
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0:max_allocation_size_mb=256 FUSEDSPLIT_FILE_TRIES=$(FILE_TRIES) \
	    $(BIN)/pytest -q -o pythonpath="build/sanitized ." -o timeout=0 tests/native/test_file_format.py

# Whatever integers there are, decoded, laid out, and where the plan is small prepared and run, under limits of memory and
# time (Debian: clang and libclang-rt-14-dev, which has libFuzzer). What is found goes into build/fuzz.
FUZZ_CXX ?= clang++
FUZZ_SECONDS ?= 60
FUZZ_FLAGS := -std=c++17 -O1 -g -Wall -Wextra -Werror -Icsrc -pthread -ffp-contract=off -fno-math-errno -fno-trapping-math \
    -DFUSEDSPLIT_ASSERTIONS -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ_OBJECTS = $(patsubst %.cc,build/fuzz/objects/%.o,csrc/core/tools/fuzz.cc \
    $(shell find csrc/core/plan csrc/core/layout csrc/core/exec csrc/core/microkernels csrc/core/runtime -name '*.cc'))
build/fuzz/objects/%/isa_avx2.o: FUZZ_ISA := -mavx2 -mfma
# Which clang 14 takes half an hour for with sanitizers: it is linked, and AVX2 runs.
build/fuzz/objects/%/isa_avx512.o: FUZZ_ISA := -mavx512f -mavx512dq -mavx512bw -mavx512vl -fno-sanitize=all
build/fuzz/objects/%.o: %.cc $(shell find csrc/core -name '*.h')
	@mkdir -p $(@D)
	$(FUZZ_CXX) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link $(FUZZ_ISA) -c $< -o $@

.PHONY: fuzz-compiler
fuzz-compiler:
	@echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' | \
	    $(FUZZ_CXX) -fsanitize=fuzzer -x c++ - -o /dev/null || \
	    { echo "make fuzz: expected a clang with libFuzzer, such as Debian's: apt-get install clang libclang-rt-14-dev." \
	      "Received: FUZZ_CXX=$(FUZZ_CXX)"; exit 1; }

fuzz: venv fuzz-compiler
	$(MAKE) build/programs/fuzz
	mkdir -p build/fuzz/corpus
	$(BIN)/python -m tests.csrc.fuzz_corpus build/fuzz/seeds
	FUSEDSPLIT_MAX_ISA=avx2 build/programs/fuzz -max_total_time=$(FUZZ_SECONDS) -timeout=20 -max_len=16384 -rss_limit_mb=2048 \
	    -malloc_limit_mb=512 -print_final_stats=1 -artifact_prefix=build/fuzz/ $(FUZZ_ARGS) build/fuzz/corpus build/fuzz/seeds

build/programs/fuzz: $(FUZZ_OBJECTS)
	@mkdir -p $(@D)
	$(FUZZ_CXX) $(FUZZ_FLAGS) -fsanitize=fuzzer $^ -o $@

# The core compiled for 64-bit Arm and checked under emulation (Debian: g++-aarch64-linux-gnu qemu-user).
CORE_SOURCES = $(filter-out %/bench.cc %/train_bench.cc %/scaling.cc %/ulp.cc %/fuzz.cc %/library.cc,$(shell find csrc/core -name '*.cc'))
aarch64:
	mkdir -p build/programs
	aarch64-linux-gnu-g++ -O2 -std=c++17 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Werror \
	    -Icsrc -pthread -static $(CORE_SOURCES) -o build/programs/selftest-aarch64
	qemu-aarch64 build/programs/selftest-aarch64 $(or $(SELFTEST_ARGS),20 1)

clean:
	rm -rf build dist *.egg-info fusedsplit/_build_info.json fusedsplit/*.so
