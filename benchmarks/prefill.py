"""Reading a prompt, by this tree and by another one side by side: `python benchmarks/prefill.py FILE... --against TREE`.

    FILE     packed files, or names of released shapes, for which random models are made: x070-0.4b x060-1.6b
    TREE     a checkout of another commit, with its native module built

Each tree runs in a process of its own. They read the same prompt in turn, so that a slow moment of the machine affects both. The first
readings do not count. What is printed are medians of the rounds and of the ratios within a round, and the growth of the peak memory while
the prompt was read. Without --against, this tree is measured alone. If the trees give different logits, the script says so and exits
with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from roofline import conditions

from rwkvquant.bench.random_model import write_random_model
from rwkvquant.bench.shapes import RELEASED, released

ROOT = Path(__file__).resolve().parents[1]

# Loads a model, and then reads the prompt once for each line of its input. Written for any commit that has these names.
READER = """
import sys, time
import numpy as np
from rwkvquant.runtime.session import load, logits_hash
file, threads, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = load(file, threads=threads)
prompt = np.random.default_rng(0).integers(0, model.dims.vocab, tokens).tolist()
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
model.forward(prompt[:1])
before = peak()
for _ in sys.stdin:
    started, worked = time.perf_counter(), time.process_time()
    logits, _ = model.forward(prompt)
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    print(seconds, processor, peak() - before, logits_hash(logits), flush=True)
"""


class Reader:
    def __init__(self, tree: Path, file: Path, threads: int, tokens: int) -> None:
        self._tokens = tokens
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER, str(file), str(threads), str(tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(tree / "src")},
        )
        self.peak_kb, self.hash = 0, ""

    def tokens_per_second(self, of_processor: bool) -> float:
        """By the clock, or for one second of processor time, which is steady on a busy machine."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().split()
        if len(answer) != 4:
            sys.exit("a process that reads the prompt has ended")
        self.peak_kb, self.hash = int(answer[2]), answer[3]
        return self._tokens / float(answer[1 if of_processor else 0])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(file: Path, trees: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    readers = {name: Reader(tree, file, options.threads, options.tokens) for name, tree in trees.items()}
    rounds: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(options.rounds + 1):
        for name, reader in readers.items():
            speed = reader.tokens_per_second(options.processor_time)
            if number > 0:
                rounds[name].append(speed)
    result: dict[str, Any] = {
        name: {"tok_s": statistics.median(rounds[name]), "rounds": rounds[name], "grown_mb": reader.peak_kb / 1e3}
        for name, reader in readers.items()
    }
    if len(rounds) == 2:
        result["ratio"] = statistics.median(a / b for a, b in zip(*rounds.values(), strict=True))
        result["same_logits"] = len({reader.hash for reader in readers.values()}) == 1
    for reader in readers.values():
        reader.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FILE")
    parser.add_argument("--against", type=Path, metavar="TREE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processor-time", action="store_true", help="tokens for each second of processor time, on a busy machine")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    trees = {"this tree": ROOT} | ({"the other": options.against.resolve()} if options.against else {})
    document: dict[str, Any] = {"conditions": conditions() | {"threads": options.threads, "tokens": options.tokens}, "models": {}}
    same = True
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(model)
            if model in RELEASED:
                file = Path(folder, f"{model}.safetensors")
                write_random_model(file, *released(model))
            result = document["models"][file.stem] = measure(file, trees, options)
        speeds = "   ".join(f"{name} {result[name]['tok_s']:.0f} tok/s (+{result[name]['grown_mb']:.0f} MB)" for name in trees)
        print(f"{file.stem:12} {speeds}" + (f"   ratio {result['ratio']:.2f}" if "ratio" in result else ""))
        if not result.get("same_logits", True):
            same = False
            print(f"{file.stem}: the logits differ")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
