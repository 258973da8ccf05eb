"""What a person types in a chat: commands, messages that look like one, messages of several lines, a system text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rwkvquant.cli import chat
from rwkvquant.cli.demo import EMBEDDED
from rwkvquant.cli.main import command_line, run
from rwkvquant.runtime.chat import Chat
from rwkvquant.runtime.thinking import ChatPiece


class Listener:
    """Hears messages in place of a model."""

    finish_reason, max_tokens = "stop", 512

    def __init__(self, *says: ChatPiece) -> None:
        self.heard: list[str] = []
        self.says = says or (ChatPiece(" ok"),)

    def pieces(self, message: str) -> Iterator[ChatPiece]:
        self.heard.append(message)
        yield from self.says

    def reset(self) -> None:
        self.heard.append("<reset>")


def types(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """A person who types these lines, and then Ctrl-D."""
    typed = iter(lines)

    def read(_: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)


def heard(monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[str]:
    """The messages that a conversation of these typed lines sends."""
    types(monkeypatch, *lines)
    listener = Listener()
    chat._converse(listener)  # type: ignore[arg-type]
    return listener.heard


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (["Hi", "", "  ", " there "], ["Hi", "there"]),
        (["//load x", "// a", "//"], ["/load x", "/ a", "/"]),
        (["Hi", "/quit", "there"], ["Hi"]),
        (["Hi", "/reset", "/help", "there"], ["Hi", "<reset>", "there"]),
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
    assert capsys.readouterr().err == (
        "there is no command /usr/bin. /help shows all commands; //usr/bin is a folder sends the line as text.\n"
    )


def test_help_names_everything_that_can_be_typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    heard(monkeypatch, "/help")
    said = capsys.readouterr().err
    assert [line.split()[0] for line in said.splitlines()] == [
        "/help",
        "/reset",
        "/save",
        "/load",
        "/think",
        "/quit",
        '"""',
        "//TEXT",
        "Ctrl-C",
    ]
    options = CliRunner().invoke(command_line(), ["chat", "--help"]).output
    assert all(
        word in options for word in ('"""', "//TEXT", "/help", "/reset", "/save FILE", "/load FILE", "/think HOW", "/quit", "Ctrl-C")
    )


THOUGHT = (ChatPiece("It is", True), ChatPiece(" 5.", True), ChatPiece("Fi"), ChatPiece("ve."))


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *says: ChatPiece, hide: bool = False) -> str:
    types(monkeypatch, "Hi", "/quit")
    chat._converse(Listener(*says), hide)  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_thinking_is_marked_and_may_be_hidden(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(monkeypatch, capsys, *THOUGHT) == "Assistant: <think>\nIt is 5.\n</think>\n\nFive.\n\n"
    assert shown(monkeypatch, capsys, *THOUGHT, hide=True) == "Assistant: Five.\n\n"
    assert shown(monkeypatch, capsys, *THOUGHT[:1]) == "Assistant: <think>\nIt is\n</think>\n\n"
    monkeypatch.setattr(chat.Shown, "dims", True)
    assert shown(monkeypatch, capsys, *THOUGHT) == "Assistant: \x1b[2mIt is 5.\x1b[0m\n\nFive.\n\n"


def test_a_model_that_only_thought_says_what_helps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Listener, "finish_reason", "length")
    types(monkeypatch, "Hi", "/quit")
    chat._converse(Listener(*THOUGHT[:1]))  # type: ignore[arg-type]
    assert "thought for 512 tokens and gave no answer; --max-tokens or --think short may help" in capsys.readouterr().err
    types(monkeypatch, "Hi")
    chat._converse(Listener(*THOUGHT))  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--template", "g2"], "a chat template is one of world, rwkv, g1, or a Jinja file; there is no file g2"),
        (["--template", "bad.jinja"], "the chat template bad.jinja is not valid Jinja: line 1: "),
        (["--think", "on"], "the chat template world has no thinking; got think=on. Use the template g1 or a Jinja file."),
        (["--template", "g1", "--think", "hard"], "the chat template g1 thinks in one of the ways on, short, long, none; got hard"),
        (["--stop", ""], "a stop string is text of at least one character; got ''"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_a_sentence(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.jinja").write_text("{% if %}")
    assert run(["chat", str(EMBEDDED), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"rwkvquant: {message}") and captured.err.count("\n") == 1


def test_a_template_that_refuses_a_message_does_not_end_the_conversation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.jinja").write_text("{% if 'no' in messages[-1].content %}{{ raise_exception('no') }}{% endif %}{{ messages }}")
    types(monkeypatch, "no", "yes", "/quit")
    assert run(["chat", str(EMBEDDED), "-n", "2", "--template", str(tmp_path / "t.jinja")]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("Assistant:") == 2 and captured.err.count("t.jinja refuses these messages: no\n") == 1


def test_how_to_think_can_change_within_a_chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wishes: list[str | None] = []

    def pieces(self: Chat, _: str) -> Iterator[ChatPiece]:
        wishes.append(self.think)
        yield ChatPiece("ok")

    monkeypatch.setattr(Chat, "pieces", pieces)
    types(monkeypatch, "Hi", "/think short", "Hi", "/think hard", "/think", "Hi")
    assert run(["chat", str(EMBEDDED), "--template", "g1"]) == 0
    assert wishes == [None, "short", "short"]
    assert [line.rpartition("; got ")[2] for line in capsys.readouterr().err.splitlines()] == ["hard", "nothing"]


@pytest.mark.parametrize("template", ["world", "rwkv", "g1"])
def test_every_built_in_template_chats(template: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    types(monkeypatch, "Who are you?", "Sure?", "/quit")
    assert run(["chat", str(EMBEDDED), "-n", "3", "--template", template]) == 0
    assert capsys.readouterr().out.count("Assistant:") == 2


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
