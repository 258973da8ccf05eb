"""What a search has collected, and changes of it, without coverage: `python -m tests.fuzz.replay packed|checkpoint|gguf CORPUS SECONDS`.

For the sanitized module: together with its libasan, libFuzzer sees no coverage and drops its collection. SECONDS are of processor time.
The latest decisions are in FUZZ_FOLDER/decisions.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from tests.fuzz.bytewise import damaged
from tests.fuzz.choices import Choices
from tests.fuzz.targets import target


def main(what: str, corpus: Path, seconds: float) -> None:
    chosen, last = target(what, count_memory=False), Path(os.environ["FUZZ_FOLDER"]) / "decisions"
    inputs = [path.read_bytes() for path in sorted(corpus.iterdir())]
    seed = int.from_bytes(os.urandom(4), "little")
    choices = Choices(random.Random(seed).randrange)
    tried = 0
    while tried < len(inputs) or time.process_time() < seconds:
        decisions = inputs[tried] if tried < len(inputs) else damaged(choices.one_of(inputs), choices)
        last.write_bytes(decisions)
        chosen(decisions)
        tried += 1
    print(f"{what}: {tried} files in {time.process_time():.0f} s of processor time, from {len(inputs)} collected ones; seed {seed}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
