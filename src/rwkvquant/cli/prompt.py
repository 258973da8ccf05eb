"""The prompt of `generate`: given as text, in a file, or on stdin."""

from __future__ import annotations

import sys
from pathlib import Path

from rwkvquant.cli.output import stderr
from rwkvquant.errors import ConfigError

STDIN = "-"


def read_prompt(text: str | None, file: str | None) -> str:
    """-p TEXT, -f FILE, or "-" in one of them for stdin; an empty prompt if there is none.

    What is read is UTF-8. Line breaks of Windows become \\n, and one line break at the end is left out: editors and `echo` add it.
    Raises ConfigError if both are given, and for a file that cannot be read or is not UTF-8.
    """
    if text is not None and file is not None:
        raise ConfigError("give the prompt either as text with -p or in a file with -f, not both")
    if file is None and text != STDIN:
        return text or ""
    if file is None or file == STDIN:
        return _decoded(_read_stdin(), "stdin")
    try:
        raw = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the prompt cannot be read from {file}: {getattr(error, 'strerror', None) or error}") from None
    return _decoded(raw, file)


def _read_stdin() -> bytes:
    if sys.stdin.isatty():
        stderr.print("Type the prompt; Ctrl-D on an empty line ends it.", style="dim")
    return sys.stdin.buffer.read()


def _decoded(raw: bytes, source: str) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"a prompt is text in UTF-8; byte {error.start} of {source} is not. Save the text as UTF-8.") from None
    return text.replace("\r\n", "\n").removesuffix("\n")
