# `make demo` and `make test` each do all the set-up they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_ARGS ?=

.PHONY: setup demo demo-vision test test-long test-lm-eval test-serve test-cpus test-arm test-browser sanitize fuzz check clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/rwkvquant/native/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	mkdir -p out
	$(BIN)/rwkvquant demo --checkpoint demo/rwkv7-8m/rwkv7-8m.pth --text demo/eval.txt --report out/demo.html

demo-vision: setup
	mkdir -p out
	$(BIN)/rwkvquant demo --checkpoint demo/vrwkv-fashion/vrwkv-fashion.pth --images demo/vrwkv-fashion/images --calib demo/vrwkv-fashion/calib.npz --report out/demo-vision.html

# Where the environment says that Python shall write no bytecode, each of some 200 processes would compile the package again, and each
# run all tests.
test: check
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

test-long: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal -m long

# The targets below name the package that set-up has installed, and pip adds what their extra needs. With `-e '.[eval]'` it would compile the
# native module again.
test-lm-eval: setup
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt 'rwkv-hybridquant[eval]' 'lm-eval[api]' accelerate
	$(BIN)/python -m pytest tests/evaluation/test_lm_eval.py tests/evaluation/test_lm_eval_tasks.py tests/evaluation/check_lm_eval_server.py

test-serve: setup
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt 'rwkv-hybridquant[clients]'
	RWKVQUANT_HOSTILE=10000 $(BIN)/python -m pytest tests/serve/clients/check_*.py tests/serve/test_hostile.py

test-cpus: setup
	tests/cpus/run.sh

test-arm: setup
	tests/arm/run.sh

test-browser: setup
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt 'rwkv-hybridquant[browser]'
	tests/browser/run.sh

sanitize: setup
	tests/sanitize/run.sh

fuzz: setup
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt 'rwkv-hybridquant[fuzz]'
	tests/fuzz/run.sh $(FUZZ_SECONDS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist out
