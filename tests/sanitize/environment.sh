# Source this from the repository's root. It builds the package with AddressSanitizer and UndefinedBehaviorSanitizer, unless the build is
# newer than the sources, and defines `sanitized COMMAND...` and `$python`, the interpreter to run with it.
#
# The package is built as a wheel is, into build/sanitize/site. The base interpreter of the virtual environment runs it, because it has no
# editable install that would be imported first.
PYTHON=${PYTHON:-.venv/bin/python}
export CXX=g++
site=$PWD/build/sanitize/site

sources=(src/rwkvquant CMakeLists.txt pyproject.toml)
if [ ! -e "$site/.built" ] || [ -n "$(find "${sources[@]}" -newer "$site/.built" -type f -not -name '*.pyc' -not -name '*.so')" ]; then
    flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    rm -rf "$site"
    "$PYTHON" -m pip install --quiet --no-deps --target "$site" . -C build-dir=build/sanitize/cmake -C install.strip=false \
        -C cmake.build-type=RelWithDebInfo -C cmake.define.CMAKE_CXX_FLAGS="$flags" -C cmake.define.CMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1"
    touch "$site/.built"
fi

python=$("$PYTHON" -c 'import sys; print(sys._base_executable)')
packages=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# libstdc++ is preloaded because the interpreter does not load it, and ASan must find its exceptions at the start. Leaks are not looked for:
# Python keeps much memory to the end. With PYTHONMALLOC=malloc every object has its own guard bands.
sanitized() {
    LD_PRELOAD="$($CXX -print-file-name=libasan.so) $($CXX -print-file-name=libstdc++.so)" \
        ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1${ASAN_MORE:+:$ASAN_MORE}" UBSAN_OPTIONS=print_stacktrace=1 \
        PYTHONMALLOC=malloc OMP_NUM_THREADS=1 PYTHONPATH="$site:$packages${PYTHONPATH_MORE:+:$PYTHONPATH_MORE}" SANITIZED_SITE="$site" "$@"
}
