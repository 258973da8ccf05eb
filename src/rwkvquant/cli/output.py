"""What commands print: results on stdout (a table, or JSON with --json), everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from rwkvquant.pipeline.progress import Progress, TensorReport

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


def quantize_progress() -> Progress:
    """A live bar on a terminal, plain lines elsewhere."""
    return LiveProgress() if stderr.is_terminal else PlainProgress()


def _line(report: TensorReport) -> str:
    error = "" if report.relative_error is None else f"error {report.relative_error:.2e}"
    sizes = f"{human_bytes(report.source_bytes):>9} -> {human_bytes(report.stored_bytes):>9}"
    return f"{report.name:<36} {report.method:<8} {report.bits_per_weight:6.3f} bits  {sizes}  {error}"


class Pace:
    """How long the rest will take, estimated from what is finished: the first item alone (a cold disk, an odd size) says too little."""

    def __init__(self, total: int | None = None, first: int = 0) -> None:
        """`total` None: the number of items is not known. `first` of them were finished before."""
        self.total, self.first, self.done = total, first, first
        self._started = self._advanced = time.monotonic()
        self._finished = 0  # calls of `advance`

    def advance(self, done: int | None = None) -> None:
        """One more item is finished, or several: `done` of them in all."""
        self.done = self.done + 1 if done is None else done
        self._advanced = time.monotonic()
        self._finished += 1

    @property
    def count(self) -> str:
        return "" if self.total is None else f"{self.done}/{self.total}"

    @property
    def left(self) -> str:
        """ "about 2:30 left", or nothing where that is not known: before the second finished item, without a total, and at the end.

        It counts down between two items. An item that takes longer than that leaves nothing to show.
        """
        if self.total is None or self._finished < 2 or not self.first < self.done < self.total:
            return ""
        rest = (self._advanced - self._started) / (self.done - self.first) * (self.total - self.done)
        seconds = round(rest - (time.monotonic() - self._advanced))
        if seconds <= 0:
            return ""
        minutes, hours = seconds // 60, seconds // 3600
        return f"about {f'{hours}:{minutes % 60:02}' if hours else minutes}:{seconds % 60:02} left"


class TimedProgress(Progress):
    """Counts tensors; the time left comes from blocks, which take about the same time."""

    def __init__(self) -> None:
        self.pace, self._blocks, self.begun = Pace(), Pace(), False

    def begin(self, tensors: int) -> None:
        self.pace, self.begun = Pace(tensors), True

    def block(self, done: int, blocks: int) -> None:
        if self._blocks.total is None:
            self._blocks = Pace(blocks, first=done)
        else:
            self._blocks.advance(done)

    @property
    def left(self) -> str:
        """The time left of the job once it has begun with its tensors, and of the current phase before that."""
        return (self._blocks if self.begun else self.pace).left


class PlainProgress(TimedProgress):
    """One line a tensor, with the time left where it is known, for logs and pipes."""

    def phase(self, what: str, steps: int = 0) -> None:
        print(what, file=sys.stderr, flush=True)

    def tensor(self, report: TensorReport) -> None:
        self.pace.advance()
        known = ", ".join(filter(None, [f"{self.pace.count:>9}", self.left]))
        print(f"[{known}] {_line(report)}", file=sys.stderr, flush=True)

    def note(self, sentence: str) -> None:
        print(f"note: {sentence}", file=sys.stderr, flush=True)


class LiveProgress(TimedProgress):
    """A bar with the current phase and the time since the start; how many are finished and the time left where these are known.

    It counts the steps of a phase until the job says how many tensors there are, and then tensors. Finished tensors scroll above it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bar = _bar(lambda: self.pace.count, lambda: self.left, TextColumn("{task.description}"), TimeElapsedColumn())
        self.task = self.bar.add_task("reading", total=None)
        self.bar.start()

    def begin(self, tensors: int) -> None:
        super().begin(tensors)
        self._count(tensors)

    def phase(self, what: str, steps: int = 0) -> None:
        self.bar.update(self.task, description=what)
        if not self.begun:
            self._count(steps or None)

    def step(self) -> None:
        if not self.begun:
            self._advance()

    def tensor(self, report: TensorReport) -> None:
        self.bar.console.print(_line(report))
        self._advance()

    def note(self, sentence: str) -> None:
        self.bar.console.print(f"note: {sentence}")

    def end(self) -> None:
        self.bar.stop()

    def _count(self, total: int | None) -> None:
        self.pace = Pace(total)
        task = self.bar.tasks[0]
        task.total, task.completed = total, 0  # Bar.update takes None for "unchanged"; without a total the bar only pulses

    def _advance(self) -> None:
        self.pace.advance()
        self.bar.update(self.task, completed=self.pace.done)


class Counter:
    """A bar over a known number of steps (windows, documents); nothing if stderr is not a terminal."""

    def __init__(self, what: str) -> None:
        self.pace = Pace()
        self.bar = _bar(
            lambda: self.pace.count,
            lambda: self.pace.left,
            TextColumn(what),
            TimeElapsedColumn(),
            transient=True,
            disable=not stderr.is_terminal,
        )
        self.task = self.bar.add_task(what, total=None)

    def __enter__(self) -> Callable[[int, int], None]:
        self.bar.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def _update(self, done: int, total: int) -> None:
        self.pace.total = total
        self.pace.advance(done)
        self.bar.update(self.task, completed=done, total=total)


class _Shown(ProgressColumn):
    """What `text` returns at the moment."""

    def __init__(self, text: Callable[[], str]) -> None:
        super().__init__()
        self._text = text

    def render(self, task: Task) -> Text:
        return Text(self._text())


def _bar(count: Callable[[], str], left: Callable[[], str], what: ProgressColumn, elapsed: ProgressColumn, **options: Any) -> Bar:
    return Bar(what, BarColumn(), _Shown(count), elapsed, _Shown(left), console=stderr, **options)
