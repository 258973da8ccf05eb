"""What commands print: results on stdout (a table, or JSON with --json), everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]

# No markup: file names and the text of a model may have brackets. Tables are as wide as they need to be, on a narrow terminal too:
# a number that is cut in the middle is wrong.
NO_LIMIT = 10_000  # columns
stderr = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
stdout = Console(highlight=False, markup=False, soft_wrap=True)


def emit(result: dict[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """Print `result` as JSON, or call `show` to print it for a person."""
    if as_json:
        json.dump(result, sys.stdout, indent=1, allow_nan=False)
        sys.stdout.write("\n")
    else:
        show()


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """First column to the left, the rest to the right."""
    from rich.table import Table  # here, because the first token of the engine waits for every import

    built = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for index, column in enumerate(columns):
        built.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        built.add_row(*row)
    built.width = stdout.measure(built, options=stdout.options.update(max_width=NO_LIMIT)).maximum
    return built


def ledger_table(title: str, rows: list[dict[str, Any]]) -> Table:
    """The ledger of formats/ledger.py: where every byte of the file goes."""
    body = [
        [
            row["label"],
            f"{row['weights']:,}" if row["weights"] else "",
            f"{row['stored_bytes']:,}",
            f"{8 * row['stored_bytes'] / row['weights']:.3f}" if row["weights"] else "",
        ]
        for row in rows
    ]
    return table(title, ["", "weights", "bytes", "bits/weight"], body)


def interval(bounds: Sequence[float] | None, form: str) -> str:
    """ " [low, high]", or nothing if there is no interval, as with one window."""
    return f" [{bounds[0]:{form}}, {bounds[1]:{form}}]" if bounds else ""


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
