"""KL against size, this file and its rivals: from cells of the laboratory, or from the JSON of `demo`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rwkvquant.lab.rows import TableRow
from rwkvquant.report.plot import Plot
from rwkvquant.report.sources import Sources
from rwkvquant.report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, SERIES, TOP, WIDTH, axes, drawing, legend, line, mark, path, scale_for
from rwkvquant.report.verdict import bracket, size


@dataclass(frozen=True)
class Point:
    """A file: bytes, KL in nats per token or image with a 95 % interval, bits per weight, and the same top token or class in 0..1."""

    series: str
    label: str
    file_bytes: int
    kl: float
    interval: Sequence[float] | None
    bits: float | None
    top1: float


def frontier_plots(sources: Sources) -> list[Plot]:
    plots = []
    if points := _of_demo(sources):
        plots.append(_plot("frontier-demo", "KL against size: this file and other methods", points, _unit(sources)))
    for title, rows in sources.lab:
        for model in dict.fromkeys(row.model for row in rows):
            if points := [_of_row(row) for row in rows if row.model == model and row.results]:
                plots.append(_plot(f"frontier-{len(plots)}", f"{title}: KL against size, {model}", points))
    return plots


def undone(sources: Sources) -> list[str]:
    """A sentence for each specification whose cells are not all there."""
    return [
        f"{title}: {sum(not row.results for row in rows)} of {len(rows)} cells have no numbers yet."
        for title, rows in sources.lab
        if not all(row.results for row in rows)
    ]


def _of_demo(sources: Sources) -> list[Point]:
    found = sources.get("demo")
    if not found:
        return []
    return [
        Point(
            name,
            name,
            found["quantize"][name]["file_bytes"],
            each["kl_mean"],
            each["kl_ci95"],
            found["quantize"][name]["bits_per_weight"],
            each["top1_agreement"],
        )
        for name, each in found["compare"].items()
        if name in found["quantize"]
    ]


def _unit(sources: Sources) -> str:
    """What a divergence of `demo` is a mean over."""
    return "image" if any("images" in each for each in sources.get("demo")["compare"].values()) else "token"


def _of_row(row: TableRow) -> Point:
    found = row.results
    return Point(
        row.series, row.label, found["file_bytes"], found["kl_mean"], found["kl_ci95"], found["bits_per_weight"], found["top1_agreement"]
    )


def _plot(key: str, title: str, points: Sequence[Point], unit: str = "token") -> Plot:
    shown = [point for point in points if point.kl > 0]
    names = list(dict.fromkeys(point.series for point in points))
    about = f"{len(points)} files in {len(names)} series; further down and to the left is better. Lines through a mark are 95 % intervals."
    head = (
        "file",
        "series",
        "bytes",
        "bits per weight",
        f"KL, nats per {unit}",
        "95 % interval",
        f"same top {'class' if unit == 'image' else 'token'}",
    )
    rows = tuple(
        (
            point.label,
            point.series,
            f"{point.file_bytes:,}",
            "" if point.bits is None else f"{point.bits:.3f}",
            f"{point.kl:.6g}",
            bracket(point.interval, 1, ".6g"),
            f"{100 * point.top1:.2f} %",
        )
        for point in points
    )
    return Plot(key, title, about, drawing(key, title, about, _parts(shown, names, unit) if shown else []), head, rows)


def _parts(points: Sequence[Point], names: Sequence[str], unit: str) -> list[str]:
    bounds = [bound for point in points for bound in (point.interval or ()) if bound > 0]
    x = scale_for([point.file_bytes / 1e6 for point in points], LEFT, WIDTH - RIGHT - 150)
    y = scale_for([point.kl for point in points] + bounds, HEIGHT - BOTTOM, TOP, log=True)
    parts = axes(x, y, "file, MB", f"KL, nats per {unit}")
    for index, name in enumerate(names):
        of_series = sorted((point for point in points if point.series == name), key=lambda point: point.file_bytes)
        if len(of_series) > 1:
            parts.append(path([(x(point.file_bytes / 1e6), y(point.kl)) for point in of_series], f"s{index % SERIES} line"))
        for point in of_series:
            at, hover = x(point.file_bytes / 1e6), f"{point.label}: {size(point.file_bytes)}, KL {point.kl:.4g}"
            if point.interval and point.interval[0] > 0:
                parts.append(line(at, y(point.interval[0]), at, y(point.interval[1]), f"s{index % SERIES} line"))
            parts.append(mark(at, y(point.kl), index, hover))
    return parts + legend(names, WIDTH - RIGHT - 134, TOP + 14)
