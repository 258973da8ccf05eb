"""The messages on the page of troubles are those of the source: a message that is reworded there must be reworded here."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from tests.docs.commands import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
SOURCE = ROOT / "src/rwkvquant"
GAP = "\0"


def text_of(node: ast.AST) -> str:
    """A string of the source with a gap in place of each value."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    return GAP


@functools.cache
def strings_of_the_source() -> list[str]:
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                found.append(text_of(node))
    return found


def messages(page: str) -> list[str]:
    """The quoted messages: the first `code` of each row, without those of other programs."""
    rows = re.findall(r"^\| `([^`]+)`([^|]*)\|", page, re.MULTILINE)
    return [message for message, after in rows if "(from " not in after]


def is_in_the_source(message: str) -> bool:
    parts = [re.escape(part.strip()) for part in re.split(r"\.\.\.(?!\")", message)]
    pattern = re.compile(f"[^{GAP}]*?{GAP}.*?".join(parts), re.DOTALL)
    return any(pattern.search(string) for string in strings_of_the_source())


@pytest.mark.parametrize("message", messages(PAGE))
def test_a_quoted_message_is_in_the_source(message: str) -> None:
    assert is_in_the_source(message)


def test_the_check_of_messages_can_fail() -> None:
    assert len(messages(PAGE)) > 60
    assert not is_in_the_source("the disk is empty") and not is_in_the_source("there is ... such file")
    assert is_in_the_source("the shard ..., which ... names, is missing")
