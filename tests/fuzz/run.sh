#!/usr/bin/env bash
# Searches for files that harm: `make fuzz`, or `tests/fuzz/run.sh SECONDS` for each of four searches (docs/fuzzing.md).
#
# Of each kind of file, first by coverage with the ordinary module, then from the same collection with the sanitized one: gcc's libasan
# has symbols of its own for libFuzzer's counters, so the second search is blind. There, a single allocation of more than 64 MiB is a
# finding (files have some tens of kilobytes). Timeouts are of processor time (limits.py); libFuzzer's own clock would count pauses.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/sanitize/environment.sh

seconds=${1:-600}
export FUZZ_FOLDER=$PWD/build/fuzz/files ASAN_MORE=max_allocation_size_mb=64:handle_abort=1 PYTHONPATH_MORE=.
mkdir -p "$FUZZ_FOLDER"
status=0
for what in packed checkpoint; do
    corpus=build/fuzz/$what
    mkdir -p "$corpus"
    for seed in {1..32}; do  # decisions at random; none at all would change nothing
        [ -e "$corpus/seed$seed" ] || head -c $((seed * 4)) /dev/urandom > "$corpus/seed$seed"
    done
    OMP_NUM_THREADS=1 PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -m tests.fuzz.search "$what" "$corpus" \
        -max_total_time="$seconds" -max_len=400 -timeout=3600 -rss_limit_mb=4096 -artifact_prefix="build/fuzz/$what-" || status=1
    sanitized "$python" -m tests.fuzz.replay "$what" "$corpus" "$seconds" || status=1
done
exit $status
