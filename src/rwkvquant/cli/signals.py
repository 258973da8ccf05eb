"""SIGTERM and SIGHUP (the terminal was closed, the connection was lost) end a command as Ctrl-C does: it removes its temporary files.

During a long job with a work directory the first signal asks it to finish the current block, and the second stops it at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rwkvquant.cli.streams import leave_terminal

ASKED = b"\nrwkvquant: finishing the current block, then stopping; a second Ctrl-C or signal stops at once\n"

HANG_UP: int | None = getattr(signal, "SIGHUP", None)  # Windows has none
SIGNALS = [number for number in (signal.SIGINT, signal.SIGTERM, HANG_UP) if number is not None]


def stop_on_signals() -> None:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does. A signal that is ignored, as under nohup, stays ignored."""
    for number in SIGNALS:
        if number != signal.SIGINT and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == HANG_UP:
        leave_terminal()
    raise KeyboardInterrupt


@contextmanager
def finish_first() -> Iterator[Callable[[], bool]]:
    """In this context the first signal only makes the yielded function return True. The next signal does what it did before."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield lambda: False
        return
    asked = False
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mine = [
        number for number, handler in before.items() if handler is not signal.SIG_IGN
    ]  # one that is ignored, as in a background job, stays ignored

    def restore() -> None:
        for number in mine:
            signal.signal(number, before[number])

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        restore()
        if number == HANG_UP:
            leave_terminal()
        with suppress(OSError):
            os.write(2, ASKED)  # print might be writing to the same stream

    for number in mine:
        signal.signal(number, ask)
    try:
        yield lambda: asked
    finally:
        restore()
