"""A specification's cells as a figure: KL against bits or file size, one panel for each model. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from rwkvquant.formats.disk import atomic_write
from rwkvquant.lab.tables import TableRow

INCHES = (5.2, 4.4)  # of a panel
MARKERS = "osD^vP*X<>hd"
LABELS = {"bits_per_weight": "bits per weight of projections and LoRA factors", "file_bytes": "file, MB"}


def save_figure(spec: Mapping[str, Any], rows: Sequence[TableRow], path: Path) -> bool:
    """Write `path`, an .svg; the same cells give the same bytes. False, and no file, where no cell is done."""
    done = [row for row in rows if row.results and row.results["kl_mean"] > 0 and row.results[spec["plot"]] is not None]
    models, series = (list(dict.fromkeys(getattr(row, name) for row in done)) for name in ("model", "series"))
    if not done:
        return False
    axis = spec["plot"]
    unit = 1e6 if axis == "file_bytes" else 1
    figure = Figure(figsize=(INCHES[0] * len(models), INCHES[1]), layout="constrained")
    figure.suptitle(spec["title"])
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        for index, name in enumerate(series):
            points = sorted(
                (row.results[axis] / unit, 1000 * row.results["kl_mean"]) for row in done if (row.model, row.series) == (model, name)
            )
            if points:
                style = {"marker": MARKERS[index % len(MARKERS)], "color": f"C{index % 10}", "label": name}
                axes.plot(*zip(*points, strict=True), linewidth=1, markersize=5, **style)
        axes.set_title(model)
        axes.set_yscale("log")
        axes.set_xlabel(LABELS[axis])
        axes.set_ylabel("KL, 1/1000 nats per token")
        axes.grid(True, which="both", alpha=0.25)
    panels[0].legend(fontsize="small")
    with matplotlib.rc_context({"svg.hashsalt": "rwkvquant"}), atomic_write(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    return True
