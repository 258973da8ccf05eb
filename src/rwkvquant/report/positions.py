"""KL by the position of a token in its window, where the JSON of `compare` has it."""

from __future__ import annotations

from rwkvquant.report.plot import Plot
from rwkvquant.report.sources import Sources
from rwkvquant.report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, axes, drawing, mark, path, scale_for


def position_plot(sources: Sources) -> Plot | None:
    rows = sources.get("compare").get("kl_by_position") or []
    if len(rows) < 2:
        return None
    x = scale_for([row["last"] for row in rows] + [rows[0]["last"]], LEFT, WIDTH - RIGHT, log=True)
    y = scale_for([row["kl_mean"] for row in rows], HEIGHT - BOTTOM, TOP, from_zero=True)
    parts = axes(x, y, "last position of the range, in tokens", "KL, nats per token")
    points = [(x(row["last"]), y(row["kl_mean"]), row) for row in rows if row["last"] > 0]
    parts.append(path([(a, b) for a, b, _ in points], "s0 line"))
    parts += [mark(a, b, 0, f"positions {row['first']} to {row['last']}: {row['kl_mean']:.4g}") for a, b, row in points]
    first, last = rows[0]["kl_mean"], rows[-1]["kl_mean"]
    about = (
        f"The mean KL divergence of tokens by their position in a window: {first:.4g} for the first, {last:.4g} for the last range. "
        "An error that grew with the length of the text would rise to the right."
    )
    title = "KL by position in the text"
    body = tuple((f"{row['first']} to {row['last']}", f"{row['tokens']:,}", f"{row['kl_mean']:.6g}") for row in rows)
    head = ("positions", "tokens", "KL, nats per token")
    return Plot("positions", title, about, drawing("positions", title, about, parts), head, body)
