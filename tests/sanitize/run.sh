#!/usr/bin/env bash
# Runs the tests that call the native module, with a module built with AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`.
# Without tests/conftest.py, so without torch. Arguments go to pytest in place of the list of tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/sanitize/environment.sh

tests=(tests/sanitize/check_sanitizers.py tests/kernels/test_product.py tests/kernels/test_activations.py tests/kernels/test_steps.py
    tests/kernels/test_sampling.py tests/kernels/test_bi_wkv_native.py tests/kernels/test_workshop_in_numpy.py
    tests/kernels/test_dispatch.py tests/kernels/test_hostile.py tests/runtime/test_engine.py tests/runtime/test_image_engine.py tests/runtime/test_hostile.py
    tests/runtime/test_golden.py)
if [ $# -eq 0 ]; then set -- "${tests[@]}"; fi
# --capture=sys: a sanitizer's message must be seen though it ends the process.
sanitized "$python" -m pytest --noconftest -p no:cacheprovider --capture=sys "$@"
