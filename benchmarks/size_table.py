"""The README's table of models: how large the file is, how much memory it takes, how fast it runs.

    python benchmarks/size_table.py                     print the table
    python benchmarks/size_table.py --check README.md   exit with 1 unless the file has the table

Measured numbers come from benchmarks/results. Random weights of the released shape were packed and run; size and speed do not depend
on the values of weights. Computed numbers have a ~:

    file      the stored bytes of all tensors, computed from the shapes (bench/sizes.py), and the World vocabulary
    memory    bytes that a token reads + 80 MB; the five measured models differ from this by at most MEMORY_ERROR
    tokens/s  the bytes/s that the largest measured RWKV-7 reached / bytes of a token; both with all columns of ffn.value, of which 12.5 %
              are read
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkvquant.architectures import Dims
from rwkvquant.architectures.rwkv import released as sizes_of
from rwkvquant.bench.shapes import released
from rwkvquant.bench.sizes import planned_size
from rwkvquant.runtime.tokenizer import load_tokenizer

RESULTS = Path(__file__).resolve().parent / "results"
HEADER_BYTES = 1.5e6  # at most
BASE_MEMORY, MEMORY_ERROR = 80e6, 20e6  # Python, NumPy and what is decoded; the largest difference allowed

# The 13.3B has 61 layers of 4096. The ranks of its LoRA factors are taken from the 7.2B: they are 3 % of the weights.
NOT_IN_THE_PACKAGE = {"x070-13.3b": ("rwkv7", sizes_of(61, 4096, 4 * 4096, Rw=128, Ra=128, Rv=96, Rg=480))}

MODELS = {  # shape -> name in the table
    "x070-0.1b": "RWKV-7 0.1B",
    "x070-0.4b": "RWKV-7 0.4B",
    "x070-1.5b": "RWKV-7 1.5B",
    "x070-2.9b": "RWKV-7 2.9B",
    "x070-7.2b": "RWKV-7 7.2B",
    "x070-13.3b": "RWKV-7 13.3B",
    "x060-7b": "RWKV-6 7B",
    "x060-14b": "RWKV-6 14B",
}
HEADER = "| | 16 bits | packed | memory | tokens/s | tokens/s of llama.cpp: Q2_K, Q4_0, F16 |\n|---|---|---|---|---|---|"


@dataclass
class Measured:
    file_bytes: int | None = None
    memory: float | None = None
    speed: float | None = None
    llama: str = "not measured"


def results(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def measurements() -> tuple[dict[str, Measured], float]:
    """What was measured of each shape; the bytes/s that the largest RWKV-7 reached."""
    measured = {shape: Measured() for shape in MODELS} | {"x060-3b": Measured()}
    rate, largest = 0.0, 0
    for model in results("vs_llama_cpp_genoa")["models"]:
        if (row := measured.get(model["shape"])) is None:
            continue
        ours, theirs = model["results"]["default"], model["results"]
        row.file_bytes, row.speed = ours["file_bytes"], ours["decode"]["median"]
        row.llama = ", ".join(number(theirs[kind]["decode"]["median"]) for kind in ("Q2_K", "Q4_0", "F16"))
        if model["arch"] == "rwkv7" and ours["bytes_per_token"] > largest:
            largest = ours["bytes_per_token"]
            rate = largest * ours["decode"]["median"]
    for each in results("big_rwkv6")["rows"]:
        if each["layouts"] == "default":
            row = measured[each["shape"]]
            row.file_bytes, row.memory = each["file_bytes"], each["peak_rss_bytes"]
    for shape, each in results("start")["models"].items():
        if shape in measured:
            measured[shape].memory = each["peak_rss_bytes"]
    return measured, rate


def sizes(shape: str) -> tuple[str, Dims]:
    return NOT_IN_THE_PACKAGE.get(shape) or released(shape)


def table() -> str:
    measured, rate = measurements()
    world = sum(array.nbytes for array in load_tokenizer("world", 65536).to_data().arrays.values())
    rows = [HEADER]
    for shape, row in measured.items():
        size = planned_size(*sizes(shape))
        if row.file_bytes is not None:
            assert 0 < row.file_bytes - size.tensor_bytes < HEADER_BYTES, f"{shape}: {size.tensor_bytes} is not {row.file_bytes}"
        memory = size.token_bytes + BASE_MEMORY
        assert row.memory is None or abs(memory - row.memory) < MEMORY_ERROR, f"{shape}: {memory} is not {row.memory}"
        if shape not in MODELS:
            continue
        cells = [
            MODELS[shape],
            human(2 * size.weights),
            human(row.file_bytes) if row.file_bytes else "~" + human(rounded(size.tensor_bytes + world)),
            human(row.memory) if row.memory else "~" + human(rounded(memory)),
            number(row.speed) if row.speed else "~" + number(rate / size.token_bytes),
            row.llama,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def rounded(count: float) -> float:
    """Two digits are enough for a computed number."""
    return float(f"{count:.2g}")


def human(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 999.5e6 else f"{count / 1e6:.0f} MB"


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, help="a document that must have the table")
    arguments = parser.parse_args()
    if arguments.check is None:
        print(table(), end="")
        return 0
    if table() in arguments.check.read_text():
        return 0
    print(f"{arguments.check} does not have this table:\n{table()}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
