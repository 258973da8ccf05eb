"""Draw the README's pictures, docs/speed.svg and docs/frontier.svg, from benchmarks/results: python benchmarks/draw_readme.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from rwkvquant.lab.store import Store
from rwkvquant.lab.tables import TableRow, table_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
KINDS = {  # in the results -> in the picture, its colour and its marker
    "F16": ("llama.cpp, F16", "#b9b9b9", "s"),
    "Q4_0": ("llama.cpp, Q4_0", "#e3a857", "^"),
    "Q2_K": ("llama.cpp, Q2_K, its fastest", "#b5651d", "v"),
    "default": ("rwkvquant, 3.275 bits", "#3b6fb6", "o"),
}
SERIES = {  # of lab/frontier.yaml -> in the picture, its colour and its marker
    "rtn": ("rounded to nearest", "#b9b9b9", "s"),
    "awq": ("AWQ", "#c9a0b8", "p"),
    "kmeans": ("k-means", "#9a8fc0", "<"),
    "vptq": ("VPTQ", "#6d6d6d", "*"),
    "lnq": ("LNQ with GuidedQuant", "#5f9ea0", ">"),
    "qronos": ("Qronos", "#d98880", "X"),
    "gptaq": ("GPTAQ, a quarter of its correction", "#c0ca33", "P"),
    "gptvq": ("GPTVQ", "#8d6e63", "h"),
    "llama.cpp": ("llama.cpp, with an importance matrix", "#b5651d", "v"),
    "gptq": ("GPTQ", "#e3a857", "^"),
    "rotated gptq": ("GPTQ, rotated inputs (QuaRot)", "#7aa874", "D"),
    "ours": ("rwkvquant", "#3b6fb6", "o"),
}


def models() -> list[dict[str, Any]]:
    """All RWKV-7 models that were compared, the smallest first."""
    models = json.loads((RESULTS / "vs_llama_cpp_genoa.json").read_text())["models"]
    return sorted((model for model in models if model["arch"] == "rwkv7"), key=lambda model: float(model["shape"].split("-")[1][:-1]))


def draw(axes: Axes) -> None:
    for number, model in enumerate(models()):
        rows = model["results"]
        points = [(rows[kind]["file_bytes"] / 1e9, rows[kind]["decode"]["median"]) for kind in KINDS]
        axes.plot(*zip(*points, strict=True), color="#dddddd", lw=1, zorder=1)
        for kind, (size, speed) in zip(KINDS, points, strict=True):
            name, colour, marker = KINDS[kind]
            axes.scatter(size, speed, 60, color=colour, marker=marker, zorder=2, label=None if number else name)
        size, speed = points[-1]
        shape = model["shape"].removeprefix("x070-").upper()
        axes.annotate(f"{shape}: {speed:.0f} tokens/s", (size, speed), (7, 5), textcoords="offset points", fontsize=9)


def frontier() -> list[TableRow]:
    """The cells of lab/frontier.yaml that are done."""
    store = Store(RESULTS / "lab")
    return [row for row in table_rows(store, store.specs()["frontier"]) if row.results]


def draw_frontier(axes: Axes, rows: list[TableRow]) -> None:
    for series, (name, colour, marker) in SERIES.items():
        own = sorted((row for row in rows if row.series == series), key=lambda row: row.results["file_bytes"])
        points = [(row.results["file_bytes"] / 1e6, 1000 * row.results["kl_mean"]) for row in own]
        line = "" if series == "llama.cpp" else "-"  # its types are not one method with more and more bits
        if points:
            axes.plot(*zip(*points, strict=True), ls=line, marker=marker, markersize=6, lw=1.2, color=colour, label=name)
        for row, point in zip(own, points, strict=True):
            if series == "llama.cpp":
                below = row.row.startswith("IQ")  # Q3_K and IQ3_S are nearly one point
                place = {"xytext": (-4, -10) if below else (5, 4), "ha": "right" if below else "left"}
                axes.annotate(row.row, point, textcoords="offset points", fontsize=7, color="#666666", **place)
    axes.set_yscale("log")
    axes.set_xlabel("file, MB")
    axes.set_title(rows[0].model, fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save_frontier() -> None:
    rows = frontier()
    models = list(dict.fromkeys(row.model for row in rows))
    figure, panels = plt.subplots(1, len(models), figsize=(9.6, 4.6), sharey=True, squeeze=False)
    for axes, model in zip(panels[0], models, strict=True):
        draw_frontier(axes, [row for row in rows if row.model == model])
    panels[0, 0].set_ylabel("KL to the original, 1/1000 nats per token")
    series = {label: line for axes in panels[0] for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}  # of any model
    panels[0, 0].legend(series.values(), series.keys(), reverse=True, fontsize=8, loc="lower left")
    figure.suptitle("What is lost for a file of a given size: down and left is better", fontsize=10)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "frontier.svg", metadata={"Date": None})


def main() -> None:
    matplotlib.rcParams["svg.hashsalt"] = "readme"  # the same bytes each time
    save_frontier()
    figure, axes = plt.subplots(figsize=(8.4, 4.6))
    draw(axes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    axes.set_yticks([5, 10, 20, 50, 100, 200, 500], ["5", "10", "20", "50", "100", "200", "500"])
    axes.minorticks_off()
    axes.set_xlabel("file, GB")
    axes.set_ylabel("tokens/s")
    axes.set_title("RWKV-7, one text at a time, on two virtual cores of an AMD EPYC: up and left is better", fontsize=10)
    axes.legend(reverse=True, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "speed.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
