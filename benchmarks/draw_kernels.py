"""Draw docs/methods/kernels.svg from what the benchmarks left in benchmarks/results: python benchmarks/draw_kernels.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LAYOUTS = {  # names in kernels_*.json, and names in the picture
    "uniform2 g128 asymmetric": "uniform2, 128",
    "uniform3 g64 asymmetric": "uniform3, 64",
    "uniform3 g32 asymmetric": "uniform3, 32",
    "uniform4 g64 asymmetric": "uniform4, 64",
    "uniform6 g64 asymmetric": "uniform6, 64",
    "codebook3 rows 16": "codebook3, 16 rows",
    "codebook3 rows 4 rank 4": "codebook3, rank 4",
    "codebook3 rows 2": "codebook3, 2 rows",
    "pairs6": "pairs6",
    "pairs8": "pairs8",
}
OURS, THEIRS, FLOOR = "#3b6fb6", "#c9802b", "#b9c7da"


def nanoseconds(row: dict[str, Any]) -> float:
    """For 64 weights, at the median speed."""
    return float(8 * row["bits_per_weight"] / row["gb_s_median"])


def draw_kernels(axes: Axes) -> None:
    memory, cache = (json.loads((RESULTS / f"kernels_{where}_genoa.json").read_text()) for where in ("memory", "cache"))
    from_memory, from_cache = ({row["layout"]: row for row in found["rows"]} for found in (memory, cache))
    for at, layout in enumerate(LAYOUTS):
        row = from_memory[layout]
        axes.barh(at, nanoseconds(row), 0.62, color=OURS, label="one product, from memory" if at == 0 else None)
        floor = nanoseconds(row) * row["share_median"]
        axes.plot(
            [floor, floor], [at - 0.4, at + 0.4], color="black", lw=2, label="its bytes at the read loop's speed" if at == 0 else None
        )
        axes.plot(nanoseconds(from_cache[layout]), at, "D", color=THEIRS, ms=6, label="arithmetic: from the cache" if at == 0 else None)
    axes.set_yticks(range(len(LAYOUTS)), LAYOUTS.values())
    axes.invert_yaxis()
    axes.set_xlabel("ns for 64 weights, one thread, AVX-512, Genoa")
    axes.set_title("Memory is the limit where the diamond is left of the line", fontsize=10)
    axes.legend(fontsize=8, loc="upper right")


def draw_decoding(axes: Axes) -> None:
    models = json.loads((RESULTS / "vs_llama_cpp_genoa.json").read_text())["models"]
    for at, model in enumerate(models):
        rows = model["results"]
        kinds = list(rows["default"]["decode_over"])
        fastest = max(kinds, key=lambda kind: rows[kind]["decode"]["median"])
        bars = {"default": rows["default"], fastest: rows[fastest], "F16": rows["F16"]}
        for number, (name, row) in enumerate(bars.items()):
            speed = row["decode"]["median"] / bars["F16"]["decode"]["median"]
            colour = (OURS, THEIRS, "#e3c49a")[number]
            label = ("rwkvquant, default", "llama.cpp, its fastest type", "llama.cpp, F16")[number] if at == 0 else None
            axes.bar(at + 0.27 * (number - 1), speed, 0.25, color=colour, label=label)
            text = f"{row['decode']['median']:.0f}" + (f"\n{name}" if number == 1 else "")
            axes.text(at + 0.27 * (number - 1), speed, text, ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(models)), [model["shape"] for model in models])
    axes.set_ylabel("decoding, F16 = 1 (numbers: tokens/s)")
    axes.set_title("Two threads, in turns, Genoa", fontsize=10)
    axes.legend(fontsize=8)
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])


def main() -> None:
    matplotlib.rcParams["svg.hashsalt"] = "kernels"  # the same bytes each time
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), width_ratios=(1.2, 1))
    draw_kernels(left)
    draw_decoding(right)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "methods" / "kernels.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
