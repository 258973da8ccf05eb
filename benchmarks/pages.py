"""Mapped and copied into huge pages, side by side: speed of decoding and reading, and the time to load.

    python benchmarks/pages.py --shape x070-0.4b --json OUT.json

A random model is held in three ways, and each round runs all three in turn:

    huge        copied into huge pages (`--pages huge`)
    map         mapped, as the writer left it in the file cache
    in pieces   mapped, from a copy that was written 4 KiB at a time in random order: so neighbouring pages of the file are far from one
                another in memory, as after days of other work

First all three must give the same logits. Then medians of --rounds, and the ratios within a round. "load" is the time until a file of
1 GB that is cached is copied into huge pages, median of --rounds after one that does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from roofline import conditions

from rwkvquant.bench.measure import Decoder
from rwkvquant.bench.random_model import write_random_model
from rwkvquant.bench.roofline import Roofline
from rwkvquant.bench.shapes import released
from rwkvquant.formats.container import open_packed
from rwkvquant.formats.pages import hold
from rwkvquant.runtime.session import Model, logits_hash
from rwkvquant.runtime.weights import packed_weights

PAGE = 4096
LOADED_BYTES = 10**9


def copy_in_pieces(source: Path, target: Path) -> None:
    """A copy whose pages get their places in memory in random order."""
    data = np.memmap(source, np.uint8, "r")
    with target.open("wb", buffering=0) as file:
        file.truncate(len(data))
        for page in np.random.default_rng(0).permutation(-(-len(data) // PAGE)):
            file.seek(int(page) * PAGE)
            file.write(data[page * PAGE : (page + 1) * PAGE])


def decoding(folder: Path, shape: str, threads: int | None, rounds: int) -> dict[str, Any]:
    path, scattered = folder / "model.safetensors", folder / "in_pieces.safetensors"
    write_random_model(path, *released(shape))
    copy_in_pieces(path, scattered)
    ways = {"huge": (path, "huge"), "map": (path, "map"), "in pieces": (scattered, "map")}
    files = {way: open_packed(*source) for way, source in ways.items()}
    models = {way: Model(packed_weights(packed), threads=threads) for way, packed in files.items()}
    tokens = np.random.default_rng(0).integers(0, models["map"].dims.vocab, 1024).tolist()
    hashes = {way: logits_hash(model.forward(tokens[:16])[0]) for way, model in models.items()}
    if len(set(hashes.values())) != 1:
        sys.exit(f"the ways give different logits: {hashes}")
    decoders = {way: Decoder(model, tokens, 1) for way, model in models.items()}
    speed: dict[str, list[float]] = {way: [] for way in ways}
    reading: dict[str, list[float]] = {way: [] for way in ways}
    with Roofline(models["map"].threads) as roofline:
        memory = []
        for _ in range(rounds):
            memory.append(roofline.read())
            for way, packed in files.items():
                reading[way].append(roofline.read(np.frombuffer(packed.contents.data, np.uint8)))
                speed[way].append(decoders[way].tokens_per_second())
    rows = {
        way: {
            "decode_tok_s": statistics.median(speed[way]),
            "decode_tok_s_rounds": speed[way],
            "read_gb_s": statistics.median(reading[way]) / 1e9,
            "huge_over_it": statistics.median(a / b for a, b in zip(speed["huge"], speed[way], strict=True)),
            "pages": str(files[way].contents.held()),
        }
        for way in ways
    }
    threads = models["map"].threads
    return {"shape": shape, "file_bytes": files["map"].file_bytes, "threads": threads, "memory_gb_s": max(memory) / 1e9, "ways": rows}


def loading(folder: Path, rounds: int) -> dict[str, Any]:
    path, seconds = folder / "gigabyte", []
    with path.open("wb") as file:
        part = np.random.default_rng(0).bytes(10**7)
        for _ in range(LOADED_BYTES // len(part)):
            file.write(part)
    for _ in range(rounds + 1):
        started = time.perf_counter()
        contents = hold(path, "huge")
        seconds.append(time.perf_counter() - started)
        del contents
    return {"bytes": LOADED_BYTES, "seconds": statistics.median(seconds[1:]), "seconds_rounds": seconds[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="x070-0.4b", help="a released shape")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where the files are written; a tmpfs keeps pages in other ways than a disk")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        document: dict[str, Any] = {"conditions": conditions() | {"rounds": options.rounds}}
        document["decoding"] = decoding(Path(folder), options.shape, options.threads, options.rounds)
        document["load"] = loading(Path(folder), options.rounds)
    for way, row in document["decoding"]["ways"].items():
        print(
            f"{way:10} {row['decode_tok_s']:6.1f} tok/s   read {row['read_gb_s']:5.1f} GB/s   huge over it {row['huge_over_it']:.2f}   "
            f"{row['pages']}"
        )
    print(f"memory {document['decoding']['memory_gb_s']:.1f} GB/s   load of 1 GB {document['load']['seconds']:.2f} s")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
