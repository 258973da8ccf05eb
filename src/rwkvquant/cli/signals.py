"""Ctrl-C and SIGTERM during a long job: the first asks it to finish its block, the second stops it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ASKED = b"\nrwkvquant: finishing the block in hand, then stopping; once more stops at once\n"


@contextmanager
def finish_first() -> Iterator[Callable[[], bool]]:
    """Inside, a first signal only makes the function that is yielded return True, and brings back what signals did before."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield lambda: False
        return
    asked = False
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    mine = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # as a job in the background has it

    def restore() -> None:
        for number in mine:
            signal.signal(number, before[number])

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        restore()
        os.write(2, ASKED)  # print might be at work on the same stream

    for number in mine:
        signal.signal(number, ask)
    try:
        yield lambda: asked
    finally:
        restore()
