"""KL by the position of a token in its window, from cells of a specification with `positions: true`: a table and a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rwkvquant.evaluation.positions import PositionSums
from rwkvquant.lab.markdown import bracket, plain
from rwkvquant.lab.rows import TableRow
from rwkvquant.results import PositionKL

SHORT = 512  # tokens: what a model's training or the measuring of most tables goes up to


@dataclass(frozen=True)
class PositionLine:
    """The positions of one row and one forward of it. `sums` has their windows."""

    label: str
    sums: PositionSums

    @property
    def rows(self) -> tuple[PositionKL, ...]:
        return self.sums.rows()


def position_lines(rows: Sequence[TableRow], model: str) -> list[PositionLine]:
    """Of the cells of a model that have them: the torch forward, then the others."""
    found = []
    for row in rows:
        if row.model == model and "by_position" in row.results:
            numbers: Mapping[str, Mapping[str, Any]] = {"": row.results, **row.results.get("forwards", {})}
            for forward, of in numbers.items():
                label = f"{row.label}, {forward}" if forward else row.label
                found.append(PositionLine(label, PositionSums.from_json(of["by_position"])))
    return found


def position_tables(rows: Sequence[TableRow]) -> str:
    """Markdown, one table for each model; empty where no cell has positions."""
    parts = []
    for model in dict.fromkeys(row.model for row in rows):
        if lines := position_lines(rows, model):
            parts.append(f"## {plain(model)}, by position in a window\n\n{_table(lines)}")
    if not parts:
        return ""
    since = f"over the KL of the range that ends at {SHORT}"
    return (
        "\n\n".join([f"By position: KL in 1/1000 nats per token, and in parentheses {since}; both intervals over windows.", *parts]) + "\n"
    )


def _table(lines: Sequence[PositionLine]) -> str:
    first = lines[0].rows
    head = ["positions", "tokens", "ppl of the original", *(plain(line.label) for line in lines)]
    body = [[range_of(row), f"{row.tokens:,}", f"{math.exp(row.nll_base):.2f}"] for row in first]
    for line in lines:
        growth = line.sums.growth(SHORT) if SHORT in line.sums.last else {}
        for cells, row in zip(body, line.rows, strict=True):
            text = f"{1000 * row.kl_mean:.3f}{bracket(row.kl_ci95, 1000)}"
            if row.last in growth and row.last != SHORT:
                ratio, ci95 = growth[row.last]
                text += f" (x {ratio:.2f}{bracket(ci95, 1, 2)})"
            cells.append(text)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def range_of(row: PositionKL) -> str:
    return str(row.last) if row.first == row.last else f"{row.first} to {row.last}"
