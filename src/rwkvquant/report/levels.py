"""Histograms of the matrices with the largest and the smallest error: the stored values, and the original's if it is given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.formats.container import PackedFile
from rwkvquant.report.plot import Plot
from rwkvquant.report.sources import Sources
from rwkvquant.report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, axes, drawing, path, rectangle, text
from rwkvquant.report.tensor_map import relative_error

BINS = 96
MOST = 1 << 24  # weights of a matrix that is decoded for its picture


def level_plots(sources: Sources) -> list[Plot]:
    """Two at most; none where the file keeps no errors."""
    packed = sources.packed
    if packed is None:
        return []
    items = [item for item in packed.ledger().items if item.role in ("projection", "lora") and item.weights <= MOST]
    errors = {item.name: error for item in items if (error := relative_error(item)) is not None}
    if not errors:
        return []
    extreme = dict.fromkeys([max(errors, key=errors.__getitem__), min(errors, key=errors.__getitem__)])
    return [_histogram(sources, packed, name, errors[name], index) for index, name in enumerate(extreme)]


def _histogram(sources: Sources, packed: PackedFile, name: str, error: float, index: int) -> Plot:
    stored = packed.decode(name).ravel()
    changed = name in _changed(packed)
    original = sources.original.read_matrix(name).ravel() if sources.original is not None and not changed else None
    both = [stored] if original is None else [stored, original]
    low, high = min(float(values.min()) for values in both), max(float(values.max()) for values in both)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(stored, BINS, (low, high))
    of_original = np.histogram(original, BINS, (low, high))[0] if original is not None else None
    tallest = max(int(counts.max()), 0 if of_original is None else int(of_original.max()))
    x, y = Scale(low, high, LEFT, WIDTH - RIGHT), Scale(0, tallest * 1.15, HEIGHT - BOTTOM, TOP)
    parts = axes(x, y, "value of a weight", "weights")
    parts += [rectangle(x(a), y(n), x(b) - x(a), y(0) - y(n), "bar") for a, b, n in _steps(edges, counts)]
    if of_original is not None:
        parts.append(path([point for a, b, n in _steps(edges, of_original) for point in ((x(a), y(n)), (x(b), y(n)))], "outline"))
    names = ["stored: bars"] + ([] if of_original is None else ["original: line"])
    parts += [text(WIDTH - RIGHT - 8, TOP + 18 + 20 * i, words, "end", "legend") for i, words in enumerate(names)]
    which = "largest" if index == 0 else "smallest"
    missing = "; the original's are others, as a transform is folded into these" if changed else "; the original was not given"
    against = "next to those of the original (line)" if of_original is not None else missing
    different = len(np.unique(stored))
    about = (
        f"{name} has the {which} relative error of all matrices, {error:.3g}. The bars are its {len(stored):,} stored weights, "
        f"{different:,} different values, {against}."
    ).replace(" ;", ";")
    title = f"The matrix with the {which} error: {name}"
    head = ("from", "to", "stored", *(() if of_original is None else ("original",)))
    rows = tuple(
        (f"{a:.6g}", f"{b:.6g}", str(n), *(() if of_original is None else (str(int(of_original[i])),)))
        for i, (a, b, n) in enumerate(_steps(edges, counts))
    )
    key = f"levels-{which}"
    return Plot(key, title, about, drawing(key, title, about, parts), head, rows)


def _changed(packed: PackedFile) -> set[str]:
    """Tensors that are not those of the original, even without rounding: the transform of an input was folded into them."""
    found: set[str] = set()
    for name, entry in packed.tensors.items():
        for key in ("scale_folded_into", "rotation_folded_into"):
            if key in entry.extra:
                found |= {name, *entry.extra[key]}
    return found


def _steps(edges: NDArray[np.float64], counts: NDArray[np.int64]) -> list[tuple[float, float, int]]:
    return [(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]
