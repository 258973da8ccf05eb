"""Draw docs/methods/state.svg from what benchmarks/state.py left in benchmarks/results: python benchmarks/draw_state.py"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = {"rwkv7-8m": 2.2e-3, "rwkv6-8m": 1.5e-3}  # KL of the weights at 3.275 bits, nats a token
COLOURS = {
    "int8, nearest": "#c9802b",
    "int8, stochastic": "#e3c49a",
    "int8 rotated, stochastic": "#8a5a9e",
    "bfloat16, nearest": "#7d7d7d",
    "int8, nearest, window of 16": "#5aa469",
    "float16, nearest": "#b9c7da",
    "12 bits, in the engine": "#3b6fb6",
    "8 bits, in the engine": "#2f8f83",
}
SMOOTH = 2  # points of 250 tokens that are drawn as one, in long curves


def draw(axes: Axes, model: str) -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / f"state_{model}.json").read_text())["step"]
    for row in found["rows"]:
        if row["scheme"] in COLOURS:
            together = SMOOTH if len(row["curve"]) > 2 * SMOOTH else 1
            curve = np.array(row["curve"])[: len(row["curve"]) // together * together].reshape(-1, together).mean(1)
            at = (np.arange(len(curve)) + 0.5) * together * found["bin"]
            axes.plot(at, curve, color=COLOURS[row["scheme"]], lw=1.6, label=f"{row['scheme']} ({row['bits']:g} bits)")
    axes.axhline(WEIGHTS[model] / 100, color="black", lw=1, ls="--", label="1 % of the weights' KL at 3.275 bits")
    axes.set_yscale("log")
    axes.set_xscale("log")
    axes.set_xlabel("tokens read")
    axes.set_title(model, fontsize=10)


def main() -> None:
    matplotlib.rcParams["svg.hashsalt"] = "state"  # the same bytes each time
    figure, both = plt.subplots(1, 2, figsize=(12, 4.8), sharey=True)
    for axes, model in zip(both, WEIGHTS, strict=True):
        draw(axes, model)
    both[0].set_ylabel("KL of the logits, nats a token")
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="lower center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(ROOT / "docs" / "methods" / "state.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
