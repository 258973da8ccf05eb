#!/usr/bin/env bash
# The native module built with AddressSanitizer and UndefinedBehaviorSanitizer, under the tests that call it: `make sanitize`.
#
# The build is the wheel's own, into build/sanitize/site. The virtual environment's base interpreter runs it, because there no
# editable install comes before it; torch is left out with tests/conftest.py. Arguments are pytest's, instead of all these tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
export CXX=g++
site=$PWD/build/sanitize/site

flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
rm -rf "$site"
"$PYTHON" -m pip install --quiet --no-deps --target "$site" . -C build-dir=build/sanitize/cmake -C install.strip=false \
    -C cmake.build-type=RelWithDebInfo -C cmake.define.CMAKE_CXX_FLAGS="$flags" -C cmake.define.CMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g"

tests=(tests/sanitize/check_sanitizers.py tests/kernels/test_product.py tests/kernels/test_activations.py tests/kernels/test_steps.py
    tests/kernels/test_dispatch.py tests/kernels/test_hostile.py tests/runtime/test_engine.py tests/runtime/test_hostile.py
    tests/runtime/test_golden.py)
base=$("$PYTHON" -c 'import sys; print(sys._base_executable)')
packages=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# libstdc++ comes along because the interpreter does not load it, and ASan must find the exceptions it watches at the start.
# Leaks are not looked for: Python keeps much to the end. With PYTHONMALLOC=malloc every object has guard bands of its own.
LD_PRELOAD="$($CXX -print-file-name=libasan.so) $($CXX -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc OMP_NUM_THREADS=1 \
    PYTHONPATH="$site:$packages" SANITIZED_SITE="$site" \
    "$base" -m pytest --noconftest -p no:cacheprovider ${@:-"${tests[@]}"}
