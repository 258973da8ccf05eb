"""The distribution of an activation as a figure: density, plain and in the logarithm, with the normal density and the clip.

Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rwkvquant.formats.disk import atomic_write

INCHES = (9.0, 3.6)  # of a row
POINTS = 400  # of the normal curve


def save_figure(found: Mapping[str, Any], title: str, path: str) -> None:
    """Write `path`, .svg or .png; the same data give the same bytes. Raises RwkvQuantError if it cannot be written.

    `found`: as evaluation/activations.py gives it.
    """
    figure = Figure(figsize=INCHES, layout="constrained")
    figure.suptitle(title)
    draw_row(figure.subplots(1, 2), found)
    with matplotlib.rc_context({"svg.hashsalt": "rwkvquant"}):
        metadata = {"Date": None} if path.endswith(".svg") else {"Software": None}
        with atomic_write(Path(path)) as file:
            figure.savefig(file, format=path.rpartition(".")[2], metadata=metadata)


def draw_row(row: Sequence[Axes], found: Mapping[str, Any]) -> None:
    """Two axes: the density, and its logarithm."""
    edges, counts = (np.array(found["histogram"][name]) for name in ("edges", "counts"))
    density = counts / found["values"] / np.diff(edges)
    floor = density[density > 0].min() / 3  # of the logarithmic axis
    for axes, scale in zip(row, ("linear", "log"), strict=True):
        axes.stairs(density, edges, fill=True, alpha=0.5, baseline=floor if scale == "log" else 0, label="activation")
        if found["std"] > 0:
            at = np.linspace(edges[0], edges[-1], POINTS)
            normal = NormalDist(found["mean"], found["std"])
            axes.plot(at, [normal.pdf(x) for x in at.tolist()], color="black", linewidth=1, label="normal")
        clip = found["clip"]
        for bound, label in ((clip["low"], f"{clip['percentile']:g} % clip"), (clip["high"], None)):
            axes.axvline(bound, color="tab:red", linestyle="--", linewidth=1, label=label)
        axes.set_yscale(scale)
        if scale == "log":
            axes.set_ylim(floor, density.max() * 3)
        axes.set_xlabel("value")
        axes.set_ylabel("density")
    row[-1].legend()
