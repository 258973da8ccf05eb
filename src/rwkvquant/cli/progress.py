"""How far a long job is, on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from rwkvquant.cli.output import human_bytes, stderr
from rwkvquant.pipeline.progress import Progress, TensorReport


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
        self._phase = "reading"
        self.bar = _bar(lambda: self.pace.count, lambda: self.left, TextColumn("{task.description}"), TimeElapsedColumn())
        self.task = self.bar.add_task(self._phase, total=None)
        self.bar.start()

    def begin(self, tensors: int) -> None:
        super().begin(tensors)
        self._count(tensors)

    def phase(self, what: str, steps: int = 0) -> None:
        self._phase = what
        self.bar.update(self.task, description=what)
        if not self.begun:
            self._count(steps or None)

    def working(self, what: str) -> None:
        self.bar.update(self.task, description=f"{self._phase}: {what}" if what else self._phase)

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
