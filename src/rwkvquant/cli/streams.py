"""stdin, stdout and stderr as the commands need them: open, and able to take any character.

A shell, cron or a daemon may start us with one of them closed. Python then has None in its place, and the next file that is opened
gets its number. The encoding of a terminal may lack characters that a model writes, and a line of input may not be text. None of this
may end a conversation.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys

STRICT = ("strict", "surrogateescape")  # the error handlers that Python sets by itself; any other one was the user's choice


def prepare() -> None:
    """Open what is closed on the null device. A character that the encoding lacks is written as an escape such as \\u4f60."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _open_null(descriptor, name)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper) and output.errors in STRICT:
            output.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors == "strict":
        sys.stdin.reconfigure(errors="surrogateescape")


def leave_terminal() -> None:
    """After a hang-up the terminal is gone: every later write to it would fail. Files and pipes stay as they are."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(null, descriptor)
    os.close(null)


def drop_output() -> None:
    """The reader of our output is gone: discard what is still buffered, without an error at the end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _open_null(descriptor: int, name: str) -> None:
    mode, flags = ("r", os.O_RDONLY) if name == "stdin" else ("w", os.O_WRONLY)
    null = os.open(os.devnull, flags)
    try:
        os.fstat(descriptor)  # something else may have got this number since Python started
    except OSError:
        os.dup2(null, descriptor)
    setattr(sys, name, os.fdopen(null, mode, encoding="utf-8"))
