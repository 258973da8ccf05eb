"""A search by coverage for files that do harm: `python -m tests.fuzz.search packed|checkpoint|gguf [options of libFuzzer]`, see run.sh."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["rwkvquant"]):
    from tests.fuzz.targets import target

if __name__ == "__main__":
    chosen = target(sys.argv[1], count_memory=True)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], chosen)
    atheris.Fuzz()
