"""What tensors are multiplied with, from the JSON of `activations`: for an element-wise vector, Figure 4 of RWKVQuant."""

from __future__ import annotations

from rwkvquant.report.kinds import Json
from rwkvquant.report.plot import Plot
from rwkvquant.report.sources import Sources
from rwkvquant.report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, axes, drawing, path, rectangle, text

MOST = 4


def activation_plots(sources: Sources) -> list[Plot]:
    """One for each tensor whose activations were measured, the first `MOST`."""
    found = [content for kind, content in sources.found.items() if kind.startswith("activations ")]
    return [_histogram(content, index) for index, content in enumerate(found[:MOST])]


def _histogram(found: Json, index: int) -> Plot:
    edges, counts, normal = (list(map(float, found["histogram"][name])) for name in ("edges", "counts", "normal"))
    bars = list(zip(edges[:-1], edges[1:], counts, normal, strict=True))
    # The bins in the tails are wide. So the height is values per unit, and the area is what is counted.
    heights = [(n / (b - a), m / (b - a)) for a, b, n, m in bars]
    x, y = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT), Scale(0, 1.15 * max(map(max, heights)), HEIGHT - BOTTOM, TOP)
    parts = axes(x, y, "value of the activation", "values per unit")
    parts += [
        rectangle(x(a), y(height), x(b) - x(a), y(0) - y(height), "bar", f"{a:.4g} to {b:.4g}: {n:,.0f} values")
        for (a, b, n, _), (height, _) in zip(bars, heights, strict=True)
    ]
    line = [point for (a, b, *_), (_, height) in zip(bars, heights, strict=True) for point in ((x(a), y(height)), (x(b), y(height)))]
    parts.append(path(line, "outline"))
    parts += [
        text(WIDTH - RIGHT - 8, TOP + 18 + 20 * i, words, "end", "legend")
        for i, words in enumerate(("measured: bars", "normal distribution of this mean and width: line"))
    ]
    met = "is multiplied element by element with" if found["meets"] == "partner" else "has as its input"
    kurtosis = "not defined" if found["kurtosis"] is None else f"{found['kurtosis']:.3g}, where a normal distribution has 3"
    about = (
        f"{found['tensor']} {met} {found['activation']}: {found['values']:,} values from {found['min']:.4g} to {found['max']:.4g}, "
        f"with the kurtosis {kurtosis}. {found['clip']['share']:.3g} of them are outside {found['clip']['low']:.4g} to "
        f"{found['clip']['high']:.4g}, to which the statistics for element-wise weights clip them."
    )
    key, title = f"activations-{chr(ord('a') + index)}", f"What {found['tensor']} is multiplied with"
    rows = tuple((f"{a:.6g}", f"{b:.6g}", f"{n:.0f}", f"{m:.6g}") for a, b, n, m in bars)
    return Plot(key, title, about, drawing(key, title, about, parts), ("from", "to", "values", "normal distribution"), rows)
