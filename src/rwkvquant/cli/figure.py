"""The same histogram as a figure: density, plain and in the logarithm, with the normal density and the clip. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from rwkvquant.formats.disk import atomic_write

if TYPE_CHECKING:  # it imports torch
    from rwkvquant.calibration.activations import Distribution

INCHES = (9.0, 3.6)
POINTS = 400  # of the normal curve


def save_figure(found: Distribution, title: str, clip_percentile: float, path: str) -> None:
    """Write `path`, .svg or .png; the same data give the same bytes. Raises RwkvQuantError if it cannot be written."""
    density = found.counts / found.count / np.diff(found.edges)
    floor = density[density > 0].min() / 3  # of the logarithmic axis
    figure = Figure(figsize=INCHES, layout="constrained")
    figure.suptitle(title)
    for axes, scale in zip(figure.subplots(1, 2), ("linear", "log"), strict=True):
        axes.stairs(density, found.edges, fill=True, alpha=0.5, baseline=floor if scale == "log" else 0, label="activation")
        if found.std > 0:
            at = np.linspace(found.edges[0], found.edges[-1], POINTS)
            normal = NormalDist(found.mean, found.std)
            axes.plot(at, [normal.pdf(x) for x in at.tolist()], color="black", linewidth=1, label="normal")
        for bound, label in ((found.clip_low, f"{clip_percentile:g} % clip"), (found.clip_high, None)):
            axes.axvline(bound, color="tab:red", linestyle="--", linewidth=1, label=label)
        axes.set_yscale(scale)
        if scale == "log":
            axes.set_ylim(floor, density.max() * 3)
        axes.set_xlabel("value")
        axes.set_ylabel("density")
    axes.legend()
    with matplotlib.rc_context({"svg.hashsalt": "rwkvquant"}):
        metadata = {"Date": None} if path.endswith(".svg") else {"Software": None}
        with atomic_write(Path(path)) as file:
            figure.savefig(file, format=path.rpartition(".")[2], metadata=metadata)
