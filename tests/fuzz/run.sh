#!/usr/bin/env bash
# Searches for files that do harm: `make fuzz`, or `tests/fuzz/run.sh SECONDS` for each of six searches (docs/fuzzing.md).
#
# For each kind of file, first a search by coverage with the ordinary module, then one from the same collection with the sanitized
# module. gcc's libasan has its own symbols for libFuzzer's counters, so the second search sees no coverage. In it, a single allocation of
# more than 64 MiB is an error (files have some tens of kilobytes). Timeouts are of processor time (limits.py); libFuzzer's own clock would
# count pauses.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/sanitize/environment.sh

seconds=${1:-600}
export FUZZ_FOLDER=$PWD/build/fuzz/files ASAN_MORE=max_allocation_size_mb=64:handle_abort=1 PYTHONPATH_MORE=.
mkdir -p "$FUZZ_FOLDER"
status=0
for what in packed checkpoint gguf; do
    corpus=build/fuzz/$what
    mkdir -p "$corpus"
    for seed in {1..32}; do  # random decisions; with none at all nothing would change
        [ -e "$corpus/seed$seed" ] || head -c $((seed * 4)) /dev/urandom > "$corpus/seed$seed"
    done
    OMP_NUM_THREADS=1 PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -m tests.fuzz.search "$what" "$corpus" \
        -max_total_time="$seconds" -max_len=400 -timeout=3600 -rss_limit_mb=4096 -artifact_prefix="build/fuzz/$what-" || status=1
    sanitized "$python" -m tests.fuzz.replay "$what" "$corpus" "$seconds" || status=1
done
exit $status
