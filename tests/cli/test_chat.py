"""What a person types in a chat: commands, messages that look like one, messages of several lines, a system text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rwkvquant.cli import chat
from rwkvquant.cli.demo import EMBEDDED
from rwkvquant.cli.main import run


class Listener:
    """Hears messages in place of a model."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def reply(self, message: str) -> Iterator[str]:
        self.heard.append(message)
        yield " ok"


def heard(monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[str]:
    """The messages that a conversation of these typed lines sends."""
    typed = iter(lines)

    def read(_: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    listener = Listener()
    chat._converse(listener)  # type: ignore[arg-type]
    return listener.heard


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (["Hi", "", "  ", " there "], ["Hi", "there"]),
        (["//load x", "// a", "//"], ["/load x", "/ a", "/"]),
        (["Hi", "/quit", "there"], ["Hi"]),
        (['"""', "  a", "", "b  ", '"""', "c"], ["\n  a\n\nb  \n", "c"]),
        (['"""a', 'b"""', "c"], ["a\nb", "c"]),
        ([' """a""" ', "c"], ["a", "c"]),
        (['"""', "/quit", "//x", '"""  ', "c"], ["\n/quit\n//x\n", "c"]),  # no commands inside
        (['"""', '"""', '""""""', "c"], ["c"]),  # an empty block is no message
        (['"""a', "b"], ["a\nb"]),  # the end of input ends it too
        (['say """a"""'], ['say """a"""']),  # quotes within a line are text
    ],
)
def test_lines_become_messages(lines: list[str], messages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert heard(monkeypatch, *lines) == messages


def test_keys_that_are_not_text_are_left_out_of_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert heard(monkeypatch, '"""a\x1b[D', '\tb\x00"""') == ["a\n\tb"]


def test_a_wrong_command_tells_how_to_send_it_as_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert heard(monkeypatch, "/usr/bin is a folder") == []
    assert "there is no command /usr/bin." in capsys.readouterr().err.replace("\n", " ")


def test_a_system_text_is_read_and_is_refused_for_a_conversation_that_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("chat", str(EMBEDDED), "-n", "3", "--temperature", "0")
    for name, system in (("without", []), ("with", ["--system", "Be kind."])):
        typed = iter([f"/save {tmp_path / name}", "Who are you?", "/quit"])
        monkeypatch.setattr("builtins.input", lambda _, typed=typed: next(typed))
        assert run([*options, *system]) == 0
        assert capsys.readouterr().out.count("Assistant:") == 1
    assert (tmp_path / "with").read_bytes() != (tmp_path / "without").read_bytes()
    assert run([*options, "--state", str(tmp_path / "without"), "--system", "Be kind."]) == 2
    assert "without is a conversation that has begun. Leave --system out." in capsys.readouterr().err
