"""The commands and Python examples of a document, as a reader would copy them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer

from rwkvquant.cli.main import UsageError, command_line

ROOT = Path(__file__).parents[2]
NAME = "rwkvquant"


def code_lines(text: str) -> Iterator[str]:
    """Lines of indented blocks and of fenced blocks that are not Python."""
    fence = ""
    for line in text.splitlines():
        if line.startswith("```"):
            fence = "" if fence else line
        elif fence:
            if not fence.startswith("```python"):
                yield line
        elif line.startswith("    "):
            yield line[4:]


def command_lines(text: str) -> list[str]:
    """The lines that a shell would run and that begin with `rwkvquant` or mkdir, without variables that are set before them."""
    lines = [re.sub(r"^(?:[A-Z_]+=\S+ )+(?=rwkvquant )", "", line) for line in code_lines(text)]
    return [line for line in lines if line.startswith((f"{NAME} ", "mkdir "))]


def arguments(line: str) -> tuple[list[str], str | None]:
    """The words after `rwkvquant`, and the file that stdin comes from."""
    words = shlex.split(re.sub(r"\$'\\n(\\n)?'", lambda found: "'\n\n'" if found[1] else "'\n'", line), comments=True)
    stdin = words[words.index("<") + 1] if "<" in words else None
    end = min((words.index(sign) for sign in "<>" if sign in words), default=None)
    return words[1:end], stdin


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def inline(text: str) -> list[str]:
    """`code` between backquotes, outside blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", "\n".join(line for line in prose.splitlines() if not line.startswith("    ")))


@cache
def program() -> Any:
    return typer.main.get_command(command_line())


def parse_error(words: list[str]) -> str | None:
    """What the command line has against these arguments: options and arguments are read, nothing is run."""
    try:
        with program().make_context(NAME, list(words)) as context:
            name, command, rest = program().resolve_command(context, [*context._protected_args, *context.args])
            if hasattr(command, "commands"):  # a group, such as lab
                name, command, rest = command.resolve_command(context, rest)
            command.make_context(name, rest, parent=context).close()
    except UsageError as error:
        return error.format_message()  # type: ignore[attr-defined,no-any-return]
    return None


@cache
def options_of(command: str) -> set[str]:
    """Every spelling of an option: --output, -o, --no-act-order. A group has those of its commands."""
    found = program().commands[command]
    params = [param for each in getattr(found, "commands", {command: found}).values() for param in each.params]
    return {spelling for each in params for spelling in (*each.opts, *each.secondary_opts) if spelling.startswith("-")} | {"--help"}


def command_names() -> set[str]:
    return set(program().commands)
