"""RWKV-6 from 3B to 14B on this machine, 16 bits and packed: tokens a second, memory, and arithmetic per byte (RWKVQuant, Table 4).

    python benchmarks/big_rwkv6.py --work-dir SCRATCH --json OUT.json        # needs 16 GB of disk

Random weights of the released shapes are streamed to disk, one file at a time. What such a model says means nothing, but its cost is
real. Each file is loaded in a new process. It generates greedily twice (other tokens the second time are an error) and then decodes in
rounds; the memory's speed is measured in each round. Memory is the peak resident set of that process after generating, with pages of the
mapped file. In 16 bits a model larger than the machine's memory is left out unless --dense names it: it would run from the mapped file,
but read most of its weights from the disk for every token.

FLOPs of a token are two a weight of a matrix and seven an element of the recurrent state; norms, gates and token shifts are not counted
(under 1 %). Bytes of a token: all weights but the embedding, one row of the embedding, and the state read and written once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from roofline import conditions

from rwkvquant.architectures import Dims, Role, architecture
from rwkvquant.bench.measure import bytes_per_token, measure, peak_rss_bytes, state_bytes
from rwkvquant.bench.shapes import released
from rwkvquant.config import DEFAULT_BITS
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.session import load

SHAPES = ("x060-3b", "x060-7b", "x060-14b")
PROMPT = [1, 2, 3, 5, 8, 13]
GENERATED = 16


def sizes(arch: str, dims: Dims) -> dict[str, int]:
    """The number of weights, and the FLOPs of a token."""
    weights = multiplied = 0
    for _, spec, _ in architecture(arch).used(dims.layers):
        if spec.role is not Role.STATE:
            count = math.prod(spec.forward_shape(dims))
            weights += count
            multiplied += count if spec.role in (Role.PROJECTION, Role.LORA, Role.HEAD) else 0
    return {"weights": weights, "flops_per_token": 2 * multiplied + 7 * dims.layers * dims.width * dims.head_size}


def run(path: Path, threads: int, rounds: int) -> dict[str, Any]:
    """In its own process: generate twice, then time."""
    model = load(path, threads=threads)
    first, second = (generate(model) for _ in range(2))
    if first != second or model.backend == "reference":
        sys.exit(f"{path.name}: generates {first} and then {second} on {model.backend}")
    peak = peak_rss_bytes()
    del model
    return measure(path, threads=threads, prefill_tokens=64, rounds=rounds) | {"generated": first, "peak_rss_bytes": peak}


def generate(model: Any) -> list[int]:
    logits, state = model.forward(PROMPT)
    tokens: list[int] = []
    for _ in range(GENERATED):
        tokens.append(int(logits.argmax()))
        logits, state = model.forward(tokens[-1:], state)
    return tokens


def compare(shape: str, layouts: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One file, written, run and deleted."""
    arch, dims = released(shape)
    path = folder / f"{shape}-{layouts}.safetensors"
    print(f"{shape}: writing {layouts}", file=sys.stderr, flush=True)
    child([sys.executable, "-m", "rwkvquant.bench.random_model", path, shape, layouts, options.bits])
    try:
        print(f"{shape}: running {layouts}", file=sys.stderr, flush=True)
        settings = ["--threads", options.threads, "--rounds", options.rounds]
        row = json.loads(child([sys.executable, __file__, "--child", path, *settings]))
        assert row["bytes_per_token"] == bytes_per_token(open_packed(path))
    finally:
        path.unlink()
    return {"shape": shape, "layouts": layouts, **sizes(arch, dims), **row, "file": path.name}


def child(command: list[Any]) -> str:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command[:4]))} ended with {done.returncode}. A negative code is a signal; -9 may be lack of memory")
    return done.stdout


def without_memory(shape: str, memory: int) -> dict[str, Any]:
    """The row of a model in 16 bits that is left out."""
    arch, dims = released(shape)
    counted = sizes(arch, dims)
    return {
        "shape": shape,
        "layouts": "dense",
        **counted,
        "file_bytes": 2 * counted["weights"],
        "bytes_per_token": 2 * (counted["weights"] - (dims.vocab - 1) * dims.width) + 2 * state_bytes(architecture(arch), dims),
        "not_run": f"{2 * counted['weights'] / 1e9:.1f} GB of weights, {memory / 1e9:.1f} GB of memory",
    }


def show(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'':<10}{'layouts':<9}{'file GB':>8}{'peak GB':>8}{'tok/s':>8}{'GB/s':>7}{'share':>7}{'GFLOP/token':>12}{'FLOP/byte':>10}")
    for row in rows:
        print(f"{row['shape']:<10}{row['layouts']:<9}{row['file_bytes'] / 1e9:>8.2f}", end="")
        if "not_run" in row:
            print(f"{'does not fit':>23}{'':7}", end="")
        else:
            print(f"{row['peak_rss_bytes'] / 1e9:>8.2f}{row['decode_tok_s']:>8.2f}{row['gb_s']:>7.1f}{row['roofline_share']:>7.0%}", end="")
        print(f"{row['flops_per_token'] / 1e9:>12.1f}{row['flops_per_token'] / row['bytes_per_token']:>10.2f}")
    for row in rows:
        if "not_run" in row:
            print(f"{row['shape']} in 16 bits: {row['not_run']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=SHAPES, help=f"default: {' '.join(SHAPES)}")
    parser.add_argument("--dense", action="append", default=[], help="run this shape in 16 bits even if it exceeds the memory")
    parser.add_argument("--layouts", default="default", help="of the packed files: default, uniform, codebook or paper")
    parser.add_argument("--bits", type=float, default=DEFAULT_BITS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work-dir", type=Path, help="for the files (default: a temporary folder)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which removes the temporary folder
    if options.child:
        print(json.dumps(run(options.child, options.threads, options.rounds)))
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    settings = {key: getattr(options, key) for key in ("threads", "rounds", "bits", "layouts")}
    report: dict[str, Any] = {"conditions": conditions() | settings | {"memory_bytes": memory}, "rows": []}
    with tempfile.TemporaryDirectory(dir=options.work_dir) as scratch:
        folder = Path(scratch)
        for shape in options.shapes:
            for layouts in ("dense", options.layouts):
                needed = 2 * sizes(*released(shape))["weights"]
                if layouts == "dense" and needed > 0.9 * memory and shape not in options.dense:
                    report["rows"].append(without_memory(shape, memory))
                    continue
                if shutil.disk_usage(folder).free < (needed if layouts == "dense" else needed // 3):
                    sys.exit(f"{folder} has no room for {shape} {layouts}; name another --work-dir")
                report["rows"].append(compare(shape, layouts, folder, options))
                if options.json:
                    options.json.write_text(json.dumps(report, indent=1))
    show(report["rows"])


if __name__ == "__main__":
    main()
