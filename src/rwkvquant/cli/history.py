"""The lines that were typed in earlier chats, for the arrow keys: in a file that only its owner may read.

    $XDG_STATE_HOME/rwkvquant/history     where that is set; by default ~/.local/state/rwkvquant/history,
                                          on a Mac ~/Library/Application Support/rwkvquant/history
    $RWKVQUANT_HISTORY                    another file; empty: none is kept

Lines are appended, so that two chats at a time both keep theirs. Nothing here ends a chat: what cannot be read or written is left out.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

LINES = 1000  # so many of the newest are kept
VARIABLE = "RWKVQUANT_HISTORY"


def history_file() -> Path | None:
    """Where the lines are kept; None if the user wants none, or has no home."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return Path(chosen) if chosen else None
    folder = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(folder):  # the specification: relative paths count as unset
        return Path(folder) / "rwkvquant" / "history"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    state = home / "Library/Application Support" if sys.platform == "darwin" else home / ".local/state"
    return state / "rwkvquant" / "history"


class History:
    """The history of Python's readline, filled from a file when a chat begins and appended to it when the chat ends.

    Without readline, or with `file` None, it does nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known = 0
        try:
            import readline
        except ImportError:  # Windows; some builds of Python
            self._readline = None
            return
        self._readline = readline
        readline.clear_history()
        for line in [] if file is None else read_lines(file):
            readline.add_history(line)
        self._known = readline.get_current_history_length()

    def save(self) -> str | None:
        """Append the lines of this chat. The reason if they could not be saved."""
        if self._readline is None or self._file is None:
            return None
        items = [self._readline.get_history_item(i) for i in range(self._known + 1, self._readline.get_current_history_length() + 1)]
        lines = [item for item in items if item]
        self._known += len(items)
        try:
            append_lines(self._file, lines)
        except (OSError, ValueError) as error:
            return f"the history of this chat could not be saved in {self._file}: {getattr(error, 'strerror', None) or error}"
        return None


def read_lines(file: Path) -> list[str]:
    """The newest lines; none if the file is missing or cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        return [line for line in text.split("\n") if line][-LINES:]
    return []


def append_lines(file: Path, lines: list[str]) -> None:
    """Add lines at the end. A new file, and a new folder, belong to their owner alone. Raises OSError or ValueError.

    A file that has become twice as long as it should be is cut.
    """
    if not lines:
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(file, lines, os.O_APPEND)
    kept = read_lines(file)
    if len(kept) == LINES and file.read_bytes().count(b"\n") > 2 * LINES:
        _write(file, kept, os.O_TRUNC)


def _write(file: Path, lines: list[str], how: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", errors="replace")
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | how, 0o600)
    try:
        if hasattr(os, "fchmod"):  # also where an older file was open to others
            os.fchmod(descriptor, 0o600)
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
