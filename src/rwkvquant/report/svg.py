"""Small functions that draw SVG. Every text passes `escaped`; colours are classes of style.css, so that the page can be dark.

Series differ in colour (Okabe and Ito's, which stay apart for colour-blind readers) and in the shape of their marks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 16, 54  # of the plotting area
SERIES = 7  # classes s0..s6 of style.css, and as many shapes
TICKS = 6


def escaped(text: object) -> str:
    return escape(str(text), quote=True)


def drawing(key: str, title: str, about: str, parts: Iterable[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    """An <svg> with its title and description for readers who do not see it. It is drawn up to `width` pixels wide."""
    return (
        f'<svg role="img" aria-labelledby="{escaped(key)}-title {escaped(key)}-desc" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}"><title id="{escaped(key)}-title">{escaped(title)}</title>'
        f'<desc id="{escaped(key)}-desc">{escaped(about)}</desc>{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: object, anchor: str = "start", name: str = "", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{escaped(name)}"{turn}>{escaped(words)}</text>'


def rectangle(x: float, y: float, width: float, height: float, name: str, hover: str = "") -> str:
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    return f'<rect {shape} class="{escaped(name)}">{_hover(hover)}</rect>'


def _hover(words: str) -> str:
    return f"<title>{escaped(words)}</title>" if words else ""


def line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{escaped(name)}"/>'


def path(points: Sequence[tuple[float, float]], name: str) -> str:
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{escaped(name)}"/>'


def mark(x: float, y: float, series: int, hover: str = "", size: float = 5) -> str:
    """A mark of a series: circle, square, diamond, triangle, triangle down, cross, plus."""
    s = size
    shapes = (
        ("circle", f'cx="{x:.1f}" cy="{y:.1f}" r="{s:g}"'),
        ("rect", f'x="{x - s:.1f}" y="{y - s:.1f}" width="{2 * s:g}" height="{2 * s:g}"'),
        ("path", f'd="M{x:.1f} {y - 1.4 * s:.1f}l{1.4 * s:g} {1.4 * s:g}l{-1.4 * s:g} {1.4 * s:g}l{-1.4 * s:g} {-1.4 * s:g}z"'),
        ("path", f'd="M{x:.1f} {y - 1.3 * s:.1f}l{1.3 * s:g} {2.2 * s:g}h{-2.6 * s:g}z"'),
        ("path", f'd="M{x:.1f} {y + 1.3 * s:.1f}l{1.3 * s:g} {-2.2 * s:g}h{-2.6 * s:g}z"'),
        ("path", f'd="M{x - s:.1f} {y - s:.1f}l{2 * s:g} {2 * s:g}m0 {-2 * s:g}l{-2 * s:g} {2 * s:g}"'),
        ("path", f'd="M{x - 1.3 * s:.1f} {y:.1f}h{2.6 * s:g}m{-1.3 * s:g} {-1.3 * s:g}v{2.6 * s:g}"'),
    )
    tag, shape = shapes[series % SERIES]
    stroked = " stroked" if series % SERIES >= 5 else ""
    return f'<{tag} {shape} class="mark s{series % SERIES}{stroked}">{_hover(hover)}</{tag}>'


def legend(names: Sequence[str], x: float, y: float) -> list[str]:
    """A line for each series, in the order of its colours and shapes."""
    parts = []
    for index, name in enumerate(names):
        parts += [mark(x, y + 20 * index, index), text(x + 14, y + 20 * index + 5, name, name="legend")]
    return parts


@dataclass(frozen=True)
class Scale:
    """From values `low`..`high` to pixels `start`..`end`; `log` for values above 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round numbers within the range: powers of ten, also 2 and 5 times them where there are few, else steps of 1, 2 or 5."""
        if self.log:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            whole = [10.0**e for e in exponents if self.low <= 10.0**e <= self.high]
            between = [m * 10.0**e for e in exponents for m in (1, 2, 5) if self.low <= m * 10.0**e <= self.high]
            chosen = whole if len(whole) >= 3 else between
            if len(chosen) > 1:
                return chosen[:: math.ceil(len(chosen) / (TICKS + 2))]
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
        return [step * i for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def scale_for(values: Iterable[float], start: float, end: float, log: bool = False, from_zero: bool = False) -> Scale:
    """A scale with a margin around the values; at least one must be finite (for `log`, above 0)."""
    known = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    low, high = min(known), max(known)
    if log:
        margin = max((high / low) ** 0.06, 1.1)
        return Scale(low / margin, high * margin, start, end, True)
    if from_zero:
        low = min(low, 0.0)
    margin = 0.06 * (high - low) or abs(high) or 1.0
    return Scale(0.0 if from_zero and low == 0 else low - margin, high + margin, start, end)


def axes(x: Scale, y: Scale, x_label: str, y_label: str) -> list[str]:
    """Grid, numbers and labels around the plotting area."""
    parts = []
    for value in x.ticks():
        parts += [line(x(value), y.start, x(value), y.end, "grid"), text(x(value), y.start + 20, short(value), "middle", "tick")]
    for value in y.ticks():
        parts += [line(x.start, y(value), x.end, y(value), "grid"), text(x.start - 8, y(value) + 5, short(value), "end", "tick")]
    parts += [line(x.start, y.start, x.end, y.start, "axis"), line(x.start, y.start, x.start, y.end, "axis")]
    parts.append(text((x.start + x.end) / 2, y.start + 44, x_label, "middle", "label"))
    parts.append(text(18, (y.start + y.end) / 2, y_label, "middle", "label", turned=True))
    return parts


def short(value: float) -> str:
    """A number for an axis."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.10g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.3g}"
