#!/usr/bin/env bash
# The native module on older CPUs than this machine's, emulated: `make test-cpus`. Before that, on this CPU, what takes minutes of `make test`:
# symbols of all files without inlining, and products of every length with every layout.
#
# qemu raises an illegal instruction for what the named CPU lacks. Nehalem is the oldest one that NumPy's wheels run on
# (x86-64-v2, no AVX), SandyBridge has AVX without AVX2, Haswell AVX2 without AVX-512.
#
# Left out:
# - AVX-512 and AVX-VNNI, which qemu does not emulate.
# - Tests that start processes, which would run on the real CPU, and tests/conftest.py, which imports torch.
# - Every length with every layout, which takes too long: check_body.py has every length with some of the layouts.
# - The engine's threads on models with heads of 64 (a minute each, because five threads wait for one another); the other sizes stay.
# - The comparison of int8 logits with NumPy's, where BLAS rounds differently on each CPU: here the logits must be the bits of the real CPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}

if ! command -v qemu-x86_64 > /dev/null; then
    echo "qemu-x86_64 is missing: installing Debian's qemu-user"
    as_root=$(test "$(id -u)" = 0 || echo sudo)
    $as_root apt-get -o DPkg::Lock::Timeout=300 update -qq
    $as_root apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends qemu-user
fi
qemu-x86_64 --version | head -1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/real_cpu"
PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -m tests.cpus.real_cpu "$work/real_cpu"

on() {  # on CPU BODIES PYTEST_ARGUMENTS...: OpenBLAS gets the CPU too, because it would crash with the real CPU's setting
    local cpu=$1 bodies=$2
    shift 2
    echo "== $cpu: $bodies"
    env -u RWKVQUANT_ISA -u RWKVQUANT_KERNELS OMP_NUM_THREADS=1 OPENBLAS_CORETYPE="$cpu" EXPECTED_BODIES="$bodies" REAL_CPU="$work/real_cpu" \
        qemu-x86_64 -cpu "$cpu" "$PYTHON" -m pytest --noconftest -p no:cacheprovider "$@" \
        2> >(grep -v "TCG doesn't support requested feature" >&2)
}

suite=(tests/cpus/check_body.py tests/kernels/test_product.py tests/kernels/test_activations.py tests/kernels/test_steps.py
    tests/kernels/test_sampling.py tests/kernels/test_bi_wkv_native.py tests/kernels/test_workshop_in_numpy.py
    tests/runtime/test_engine.py tests/runtime/test_image_engine.py
    -k 'check_body or not (every_length or every_body or presets_run or rounded_inputs or (threads_batches and 64))')

log=$work/log
status=0
"$PYTHON" -m pytest -n 2 tests/cpus/check_symbols.py tests/cpus/check_lengths.py || status=1
on Haswell "plain avx2" "${suite[@]}" > "$log" 2>&1 &
on SandyBridge plain tests/cpus/check_body.py -k bodies || status=1
on Nehalem plain "${suite[@]}" || status=1
wait $! || status=1
cat "$log"
exit $status
