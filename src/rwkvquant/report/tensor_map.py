"""The model as a map: a row for each layer, a column for each matrix of a block. A cell has its codec, its bits and its error."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from rwkvquant.formats.container import PackedFile
from rwkvquant.formats.ledger import LedgerItem
from rwkvquant.report.plot import Plot
from rwkvquant.report.svg import SERIES, drawing, escaped, rectangle, text

CELL, ROW, GAP = 50, 34, 2  # pixels
LEFT, HEAD = 56, 128
MATRICES = ("projection", "lora")
WORST, BEST = 0.5, 1e-5  # relative errors where the bar is full and empty


def tensor_map(packed: PackedFile) -> Plot | None:
    """None for a file without matrices in blocks."""
    items = [item for item in packed.ledger().items if item.role in MATRICES]
    places = {item.name: place for item in items if (place := place_of(item.name))}
    if not places:
        return None
    columns = list(dict.fromkeys(column for _, column in places.values()))
    layers = sorted({layer for layer, _ in places.values()})
    codecs = list(dict.fromkeys(codec_of(item) for item in items))
    letters = _letters(codecs)
    width = LEFT + CELL * len(columns) + 10
    height = HEAD + ROW * len(layers) + 62
    parts = [_slanted(LEFT + CELL * i + CELL / 2, HEAD - 10, name) for i, name in enumerate(columns)]
    parts += [text(LEFT - 10, HEAD + ROW * i + ROW / 2 + 4, layer, "end", "tick") for i, layer in enumerate(layers)]
    for item in items:
        if item.name in places:
            layer, column = places[item.name]
            x, y = LEFT + CELL * columns.index(column), HEAD + ROW * layers.index(layer)
            parts += _cell(item, x, y, letters[codec_of(item)], codecs.index(codec_of(item)))
    bottom = HEAD + ROW * len(layers) + 28
    at = float(LEFT)
    for index, codec in enumerate(codecs):
        parts += [
            rectangle(at, bottom, 22, 18, f"cell m{index % SERIES}"),
            text(at + 11, bottom + 14, letters[codec], "middle", "cellword"),
        ]
        parts.append(text(at + 30, bottom + 14, codec, name="legend"))
        at += 62 + 8 * len(codec)
    parts.append(text(14, HEAD - 10, "layer", name="tick"))
    about = (
        f"{len(places)} matrices in {len(layers)} layers. A cell has the letter of the codec and the stored bits per weight; the bar below "
        "them is the error, on a logarithmic scale: the longer, the more of the matrix was lost. "
        f"Codecs: {', '.join(f'{letters[codec]} is {codec}' for codec in codecs)}."
    )
    title = "Every matrix: its codec, bits and error"
    return Plot("map", title, about, drawing("map", title, about, parts, max(width, 420), height), HEADINGS, table(packed.ledger().items))


HEADINGS = ("tensor", "role", "method", "layout", "shape", "bits per weight", "relative error")


def table(items: Sequence[LedgerItem]) -> tuple[tuple[str, ...], ...]:
    """A row for each tensor of the file, with the numbers of `inspect --tensors`."""
    return tuple(
        (item.name, item.role, item.method, item.layout, _shape(item), f"{item.bits_per_weight:.3f}", _error(item)) for item in items
    )


def place_of(name: str) -> tuple[int, str] | None:
    """ "blocks.3.att.key.weight" -> (3, "att.key"); None for a tensor outside the blocks."""
    found = re.fullmatch(r"[A-Za-z_.]*?\.(\d+)\.(.+)", name)
    return (int(found[1]), found[2].removesuffix(".weight")) if found else None


def codec_of(item: LedgerItem) -> str:
    """The family of its layout: "uniform" of "uniform3.g64"."""
    return re.split(r"[^a-z_-]", item.layout, maxsplit=1)[0] or item.layout


def relative_error(item: LedgerItem) -> float | None:
    """What the writer of the file noted, if it is a number."""
    error = item.extra.get("relative_error")
    return float(error) if isinstance(error, int | float) and not isinstance(error, bool) and math.isfinite(error) else None


def _cell(item: LedgerItem, x: float, y: float, letter: str, index: int) -> list[str]:
    error = relative_error(item)
    lost = f", relative error {error:.3g}" if error is not None else ""
    hover = f"{item.name}: {item.method}, {item.layout}, {item.bits_per_weight:.3f} bits per weight{lost}"
    parts = [
        text(x + CELL / 2, y + 18, f"{letter} {item.bits_per_weight:.1f}", "middle", "cellword"),
    ]
    if error is not None and error > 0:
        share = math.log(min(max(error, BEST), WORST) / BEST) / math.log(WORST / BEST)
        parts.append(rectangle(x + 4, y + ROW - 10, share * (CELL - GAP - 8), 4, "error"))
    return [f'<g class="tensor">{rectangle(x, y, CELL - GAP, ROW - GAP, f"cell m{index % SERIES}", hover)}', *parts, "</g>"]


def _slanted(x: float, y: float, words: str) -> str:
    return f'<text transform="rotate(-50 {x:.1f} {y:.1f})" x="{x:.1f}" y="{y:.1f}" class="column">{escaped(words)}</text>'


def _letters(codecs: Sequence[str]) -> dict[str, str]:
    """A letter for each codec, the first of its name that is free."""
    letters: dict[str, str] = {}
    for codec in codecs:
        free = [letter for letter in codec.upper() + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter.isalpha() and letter not in letters.values()]
        letters[codec] = free[0] if free else "?"
    return letters


def _shape(item: LedgerItem) -> str:
    return " x ".join(map(str, item.shape))


def _error(item: LedgerItem) -> str:
    error = relative_error(item)
    return "" if error is None else f"{error:.3g}"
