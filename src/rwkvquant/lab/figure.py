"""A specification's cells as a figure: KL against bits or file size, or by position; one panel for each model. Needs matplotlib.

A study draws its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from rwkvquant.formats.disk import atomic_write
from rwkvquant.lab.positions import position_lines
from rwkvquant.lab.rows import TableRow
from rwkvquant.lab.studies import study_named

INCHES = (5.2, 4.4)  # of a panel
MARKERS = "osD^vP*X<>hd"
LABELS = {"bits_per_weight": "bits per weight of projections and LoRA factors", "file_bytes": "file, MB"}


def save_figure(spec: Mapping[str, Any], rows: Sequence[TableRow], path: Path) -> bool:
    """Write `path`, an .svg; the same cells give the same bytes. False, and no file, where no cell is done."""
    if spec.get("study"):
        return _save_study(spec, [row for row in rows if row.results], path)
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
    _save(figure, path)
    return True


def save_positions(spec: Mapping[str, Any], rows: Sequence[TableRow], path: Path) -> bool:
    """KL by the position of a token, with 95 % intervals. False, and no file, where no cell has it."""
    of_model = {model: lines for model in dict.fromkeys(row.model for row in rows) if (lines := position_lines(rows, model))}
    if not of_model:
        return False
    figure = Figure(figsize=(INCHES[0] * len(of_model), INCHES[1]), layout="constrained")
    figure.suptitle(spec["title"])
    panels = figure.subplots(1, len(of_model), squeeze=False)[0]
    for axes, (model, lines) in zip(panels, of_model.items(), strict=True):
        for index, line in enumerate(lines):
            x, y = [row.last for row in line.rows], [1000 * row.kl_mean for row in line.rows]
            style = {"marker": MARKERS[index % len(MARKERS)], "color": f"C{index % 10}"}
            axes.plot(x, y, linewidth=1, markersize=4, label=line.label, **style)
            bounds = [row.kl_ci95 or (row.kl_mean, row.kl_mean) for row in line.rows]
            axes.fill_between(x, [1000 * low for low, _ in bounds], [1000 * high for _, high in bounds], alpha=0.2, color=style["color"])
        axes.set_title(model)
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("last position of the range, in tokens")
        axes.set_ylabel("KL, 1/1000 nats per token")
        axes.grid(True, alpha=0.25)
    panels[0].legend(fontsize="small")
    _save(figure, path)
    return True


def _save_study(spec: Mapping[str, Any], done: Sequence[TableRow], path: Path) -> bool:
    if not done:
        return False
    figure = study_named(spec["study"]).draw(done, spec.get("reference"))
    figure.suptitle(spec["title"])
    _save(figure, path)
    return True


def _save(figure: Figure, path: Path) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "rwkvquant"}), atomic_write(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
