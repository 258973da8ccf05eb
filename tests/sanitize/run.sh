#!/usr/bin/env bash
# The native module built with AddressSanitizer and UndefinedBehaviorSanitizer, under the tests that call it: `make sanitize`.
# torch is left out with tests/conftest.py. Arguments are pytest's, instead of all these tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/sanitize/environment.sh

tests=(tests/sanitize/check_sanitizers.py tests/kernels/test_product.py tests/kernels/test_activations.py tests/kernels/test_steps.py
    tests/kernels/test_sampling.py tests/kernels/test_workshop_in_numpy.py
    tests/kernels/test_dispatch.py tests/kernels/test_hostile.py tests/runtime/test_engine.py tests/runtime/test_hostile.py
    tests/runtime/test_golden.py)
if [ $# -eq 0 ]; then set -- "${tests[@]}"; fi
# --capture=sys: what a sanitizer says before it ends the process must not end with it.
sanitized "$python" -m pytest --noconftest -p no:cacheprovider --capture=sys "$@"
