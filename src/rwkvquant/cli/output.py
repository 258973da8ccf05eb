"""How commands speak: results on stdout (a table, or JSON with --json), everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from rwkvquant.pipeline.progress import Progress, TensorReport

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]

# No markup: file names and the text of a model may hold brackets. Tables are as wide as they need to be, on a narrow terminal too:
# a number that is cut in the middle says something else.
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


def interval(bounds: list[float] | None, form: str) -> str:
    """ " [low, high]", or nothing where one window gives no interval."""
    return f" [{bounds[0]:{form}}, {bounds[1]:{form}}]" if bounds else ""


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def quantize_progress() -> Progress:
    """A live bar on a terminal, plain lines elsewhere."""
    return LiveProgress() if stderr.is_terminal else PlainProgress()


def _line(report: TensorReport) -> str:
    error = "" if report.relative_error is None else f"error {report.relative_error:.2e}"
    sizes = f"{human_bytes(report.source_bytes):>9} -> {human_bytes(report.stored_bytes):>9}"
    return f"{report.name:<36} {report.method:<8} {report.bits_per_weight:6.3f} bits  {sizes}  {error}"


class PlainProgress(Progress):
    """One line a tensor, with the time left, for logs and pipes."""

    def begin(self, tensors: int) -> None:
        self.total, self.done, self.started = tensors, 0, time.monotonic()

    def phase(self, what: str, steps: int = 0) -> None:
        print(what, file=sys.stderr, flush=True)

    def tensor(self, report: TensorReport) -> None:
        self.done += 1
        left = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        print(f"[{self.done:>4}/{self.total}, {left:4.0f} s left] {_line(report)}", file=sys.stderr, flush=True)

    def note(self, sentence: str) -> None:
        print(f"note: {sentence}", file=sys.stderr, flush=True)


class LiveProgress(Progress):
    """A bar with the phase, the tensor in hand and the time left; finished tensors scroll above it."""

    def __init__(self) -> None:
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=stderr,
        )
        self.task = self.bar.add_task("reading", total=None)
        self.bar.start()

    def begin(self, tensors: int) -> None:
        self.bar.update(self.task, total=tensors)

    def phase(self, what: str, steps: int = 0) -> None:
        self.bar.update(self.task, description=what)

    def tensor(self, report: TensorReport) -> None:
        self.bar.console.print(_line(report))
        self.bar.advance(self.task)

    def note(self, sentence: str) -> None:
        stderr.print(f"note: {sentence}")

    def end(self) -> None:
        self.bar.stop()


class Counter:
    """A bar over a known number of steps (windows, documents); silent when stderr is no terminal."""

    def __init__(self, what: str) -> None:
        self.bar = Bar(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=stderr,
            transient=True,
            disable=not stderr.is_terminal,
        )
        self.task = self.bar.add_task(what, total=None)

    def __enter__(self) -> Callable[[int, int], None]:
        self.bar.start()
        return lambda done, total: self.bar.update(self.task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
