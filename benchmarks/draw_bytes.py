"""Draw docs/methods/bytes.svg, the bytes that a token reads, and print them as a table: python benchmarks/draw_bytes.py

Nothing is measured here: the bytes are those of `bench --random SHAPE`, which is packed like the default method packs. A column of
ffn.value that is multiplied by zero is not read.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from rwkvquant.architectures import Role, architecture
from rwkvquant.bench.measure import state_bytes
from rwkvquant.bench.random_model import planned
from rwkvquant.bench.shapes import released

SHAPES = ("x070-0.1b", "x070-0.4b", "x060-1.6b", "x070-1.5b", "x070-2.9b", "x070-7.2b")
DENSITIES = (1.0, 0.2, 0.125)
PARTS = {  # each with its color
    "other matrices": "#3b6fb6",
    "ffn.value": "#c9802b",
    "head": "#7aa36f",
    "vectors": "#8a8a8a",
    "state": "#b9c7da",
}


def bytes_of(shape: str) -> dict[str, int]:
    """{part: bytes that a token reads}, with all columns. The state is read and written."""
    arch, dims = released(shape)
    own, parts = architecture(arch), Counter(dict.fromkeys(PARTS, 0))
    tensors = list(planned(arch, dims))
    names = {name for name, _, _ in tensors}
    for name, spec, packing in tensors:
        if own.reads_nonnegative(name, names):
            parts["ffn.value"] += packing.stored_bytes
        elif spec.role is Role.HEAD:
            parts["head"] += packing.stored_bytes
        elif spec.role is Role.EMBEDDING:
            parts["vectors"] += packing.stored_bytes // dims.vocab
        else:
            parts["other matrices" if spec.role in (Role.PROJECTION, Role.LORA) else "vectors"] += packing.stored_bytes
    parts["state"] += 2 * state_bytes(own, dims)
    return dict(parts)


def main() -> None:
    matplotlib.rcParams["svg.hashsalt"] = "bytes"  # the same bytes each time
    figure, axes = plt.subplots(figsize=(10, 4.4))
    print("| | all columns | 20 % | 12.5 % | promised: 20 % | 12.5 % |\n|---|---|---|---|---|---|")
    for at, shape in enumerate(SHAPES):
        parts = bytes_of(shape)
        whole, totals = sum(parts.values()), []
        for number, density in enumerate(DENSITIES):
            place, bottom = at + 0.27 * (number - 1), 0.0
            for part, color in PARTS.items():
                height = parts[part] * (density if part == "ffn.value" else 1) / whole
                axes.bar(place, height, 0.25, bottom, color=color, label=part if at == number == 0 else None)
                bottom += height
            totals.append(bottom * whole)
            axes.text(place, bottom, f"{totals[-1] / 1e6:.0f}", ha="center", va="bottom", fontsize=7)
        cells = [f"{total / 1e6:.0f} MB" for total in totals] + [f"{whole / total:.3f}" for total in totals[1:]]
        print(f"| {shape} | {' | '.join(cells)} |")
    axes.set_xticks(range(len(SHAPES)), SHAPES)
    axes.set_ylabel("bytes of a token, all columns = 1")
    axes.set_title("Numbers: MB a token with all columns of ffn.value, with 20 % and with 12.5 % of them", fontsize=10)
    axes.set_ylim(0, 1.3)
    axes.legend(fontsize=8, ncols=len(PARTS), loc="upper center")
    figure.tight_layout()
    figure.savefig(Path(__file__).resolve().parents[1] / "docs" / "methods" / "bytes.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
