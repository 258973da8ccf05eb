#!/usr/bin/env bash
# The native module on 64-bit ARM: `make test-arm`.
#
# Debian's g++ cross-compiles it, and qemu runs it in Debian's Python for ARM. That Python, its C library and NumPy's wheels are unpacked
# into build/arm and nowhere else; only the compiler and qemu are installed. cortex-a53 has no dot products, cortex-a76 has them, and `max`
# (the only such CPU of qemu 7) has the matrix multiplication of int8 too.
#
# What needs torch or starts processes is left out, as in tests/cpus/run.sh. qemu says nothing about speed.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
build=$PWD/build/arm
sysroot=$build/sysroot

missing=()
command -v aarch64-linux-gnu-g++ > /dev/null || missing+=(g++-aarch64-linux-gnu)
command -v qemu-aarch64 > /dev/null || missing+=(qemu-user)
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing Debian's ${missing[*]}"
    as_root=$(test "$(id -u)" = 0 || echo sudo)
    $as_root apt-get -o DPkg::Lock::Timeout=300 update -qq
    $as_root apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}"
fi
qemu-aarch64 --version | head -1

unpack_debian() {  # uses separate lists of packages for ARM: the machine's own lists and architectures do not change
    local apt=$build/apt
    local arm=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Acquire::Languages=none -o APT::Sandbox::User=root
        -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt")
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$build/debs"
    : > "$apt/status"
    apt-get "${arm[@]}" update -qq
    (cd "$build/debs" && apt-get "${arm[@]}" download -qq python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev \
        libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libssl3)
    local deb
    for deb in "$build"/debs/*.deb; do dpkg -x "$deb" "$sysroot.new"; done
    mv "$sysroot.new" "$sysroot"
}

pip_arm() {  # installs ARM's wheels for that Python
    "$PYTHON" -m pip install --quiet --upgrade --target "$build/site" --python-version 3.11 --only-binary=:all: \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 "$@"
}

if [ ! -d "$sysroot" ]; then
    rm -rf "$sysroot.new"
    unpack_debian
fi
if [ ! -e "$build/site/.ready" ]; then
    pip_arm numpy safetensors typer rich pytest
    touch "$build/site/.ready"
fi
if [ ! -e "$build/tools/.ready" ]; then
    "$PYTHON" -m pip install --quiet --upgrade --target "$build/tools" 'cmake>=3.26' ninja 'nanobind>=2.4'
    touch "$build/tools/.ready"
fi

on() {  # on CPU PYTHON_ARGUMENTS...: OpenBLAS gets ARMV8, which all these CPUs are
    local cpu=$1
    shift
    env -u RWKVQUANT_ISA -u RWKVQUANT_KERNELS -u OPENBLAS_L2_SIZE OMP_NUM_THREADS=1 OPENBLAS_CORETYPE=ARMV8 PYTHONDONTWRITEBYTECODE=1 \
        PYTHONPATH="$build/package:$build/site" qemu-aarch64 -cpu "$cpu" -L "$sysroot" "$sysroot/usr/bin/python3.11" "$@"
}

# CMake runs Python for its version and the suffix of modules.
cat > "$build/python" <<SCRIPT
#!/bin/sh
exec qemu-aarch64 -L "$sysroot" "$sysroot/usr/bin/python3.11" "\$@"
SCRIPT
chmod +x "$build/python"
nanobind=$(PYTHONPATH=$build/tools "$PYTHON" -m nanobind --cmake_dir)
PYTHONPATH=$build/tools "$build/tools/bin/cmake" -S . -B "$build/native" -G Ninja -DCMAKE_MAKE_PROGRAM="$build/tools/bin/ninja" \
    -DCMAKE_TOOLCHAIN_FILE="$PWD/tests/arm/toolchain.cmake" -DCMAKE_CXX_FLAGS="-isystem $sysroot/usr/include" \
    -DPython_EXECUTABLE="$build/python" -DPython_INCLUDE_DIR="$sysroot/usr/include/python3.11" -Dnanobind_DIR="$nanobind" > "$build/cmake.log"
"$build/tools/bin/ninja" -C "$build/native" --quiet

# The package, with this module instead of the machine's own.
rm -rf "$build/package"
mkdir -p "$build/package/rwkvquant"
for entry in src/rwkvquant/*; do
    case $entry in *_native*) ;; *) ln -s "$PWD/$entry" "$build/package/rwkvquant/" ;; esac
done
cp "$build"/native/_native*.so "$build/package/rwkvquant/"

check() {  # check CPU BODIES PYTEST_ARGUMENTS...
    local cpu=$1 bodies=$2
    shift 2
    echo "== ${cpu%%,*}: $bodies"
    EXPECTED_BODIES=$bodies on "$cpu" -m pytest --noconftest -p no:cacheprovider "$@"
}

# check_body has the golden words, and a thirtieth of the lengths for which test_product takes minutes. Only `max`, which runs all bodies,
# has the tests that read every code from its own place.
suite=(tests/cpus/check_body.py tests/kernels/test_product.py tests/kernels/test_activations.py tests/kernels/test_steps.py
    tests/kernels/test_sampling.py tests/kernels/test_bi_wkv_native.py tests/kernels/test_workshop_in_numpy.py)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/real_cpu"
PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -m tests.cpus.real_cpu "$work/real_cpu"
export REAL_CPU=$work/real_cpu
log=$work/log
status=0
check cortex-a76 "plain neon" "${suite[@]}" -k "check_body or not (every_length or own_place or compressed)" > "$log" 2>&1 &
check max,pauth-impdef=on "plain neon i8mm" "${suite[@]}" -k "check_body or not every_length" || status=1
wait $! || status=1
cat "$log"
check cortex-a53 plain tests/cpus/check_body.py -k "not every_length" || status=1
exit $status
