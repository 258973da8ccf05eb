"""Decoding next to the speed of memory at the same moment: `python benchmarks/memory_share.py FILE [FILE ...] --json OUT.json`.

The speed of the memory of a virtual machine is not always the same: on one machine two cores read 57 GB/s in some minutes and 34 in
others. A share of the best reading of minutes ago then says little. Here a moment is: read 1 GiB, decode for a third of a second, read
again. The share is

    bytes of a token, all columns counted x tokens a second / mean of the two readings

Moments whose two readings differ by more than 10 % are counted and left out. Each file runs in turn with two threads, with two threads
that read all columns of ffn.value, and with one thread. Tokens do not count until the engine has chosen how to prefetch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from roofline import conditions

from rwkvquant.bench.measure import Decoder, bytes_per_token
from rwkvquant.bench.roofline import Roofline
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.session import Model, load

WAYS = {"two threads": (2, "used"), "two threads, all columns": (2, "all"), "one thread": (1, "used")}
SAME = 0.1  # the largest difference of two readings of one moment
READ = 1 << 30


class Decoding:
    """One way to decode. `moment` measures it between two readings."""

    def __init__(self, model: Model, roofline: Roofline, stored: int) -> None:
        tokens = np.random.default_rng(0).integers(1, model.dims.vocab, 1024).tolist()
        self._decoder, self._roofline, self._stored = Decoder(model, tokens, 1), roofline, stored
        while model.tuning.prefetch_source == "measuring":
            self._decoder.tokens_per_second()

    def moment(self) -> dict[str, float]:
        before = self._roofline.read()
        speed = self._decoder.tokens_per_second()
        after = self._roofline.read()
        memory = (before + after) / 2
        return {"tok_s": speed, "gb_s": memory / 1e9, "differ": abs(before - after) / memory, "share": self._stored * speed / memory}


def summary(moments: list[dict[str, float]]) -> dict[str, Any]:
    """Medians and quartiles of the moments in which the memory was steady."""
    steady = [moment for moment in moments if moment["differ"] <= SAME]
    result: dict[str, Any] = {"moments": len(moments), "steady": len(steady)}
    for key in ("tok_s", "gb_s", "share"):
        values = [moment[key] for moment in steady]
        result[key] = statistics.median(values) if values else None
        result[f"{key}_quartiles"] = [float(q) for q in np.quantile(values, (0.25, 0.75))] if values else None
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="packed files, for example of rwkvquant bench --random x070-1.5b --output FILE")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    report: dict[str, Any] = {"conditions": conditions(), "files": {}}
    for file in given.files:
        packed = open_packed(file)
        with ExitStack() as stack:
            rooflines = {threads: stack.enter_context(Roofline(threads, READ)) for threads in (1, 2)}
            ways = {}
            for name, (threads, columns) in WAYS.items():
                os.environ["RWKVQUANT_COLUMNS"] = columns
                ways[name] = Decoding(load(file, threads=threads), rooflines[threads], bytes_per_token(packed))
            moments: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
            for _ in range(given.rounds):
                for name, way in ways.items():
                    moments[name].append(way.moment())
        rows = {name: summary(of) for name, of in moments.items()}
        report["files"][file.name] = {"bytes_per_token": bytes_per_token(packed), "ways": rows, "moments": moments}
        for name, row in rows.items():
            share = "-" if row["share"] is None else f"{row['tok_s']:.0f} tok/s, {row['gb_s']:.0f} GB/s, {row['share']:.0%}"
            print(f"{file.name}: {name}: {share} ({row['steady']} of {row['moments']} moments)", flush=True)
        if given.json:
            given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
