"""A prompt from -p, a file or stdin is the same prompt; what is not text costs one sentence."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rwkvquant.cli.demo import EMBEDDED
from rwkvquant.cli.main import run
from rwkvquant.cli.prompt import read_prompt
from rwkvquant.errors import ConfigError

OPTIONS = ("generate", str(EMBEDDED), "-n", "4", "--temperature", "0")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """What will be read from stdin: fill it."""
    data = io.BytesIO()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=SimpleNamespace(read=data.getvalue), isatty=lambda: False))
    return data


@pytest.mark.parametrize(
    ("raw", "prompt"),
    [
        (b"Once upon", "Once upon"),
        (b"Once\n\n  upon\n", "Once\n\n  upon"),  # one line break at the end is the editor's
        (b"a\n\n", "a\n"),
        (b"a\r\nb\r\n", "a\nb"),
        (b"\xef\xbb\xbf caf\xc3\xa9 ", " caf\u00e9 "),  # a mark of byte order, as Windows writes it, is no text
        (b"", ""),
        (b"-", "-"),
    ],
)
def test_the_prompt_is_what_the_file_or_stdin_has(raw: bytes, prompt: str, tmp_path: Path, typed: io.BytesIO) -> None:
    (tmp_path / "prompt.txt").write_bytes(raw)
    typed.write(raw)
    assert read_prompt(None, str(tmp_path / "prompt.txt")) == read_prompt("-", None) == read_prompt(None, "-") == prompt


def test_text_is_taken_as_it_is() -> None:
    assert read_prompt(" a\r\n", None) == " a\r\n" and read_prompt(None, None) == read_prompt("", None) == ""


def test_every_way_to_give_a_prompt_gives_the_same_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompt.txt").write_text("The old\nman\n")
    assert run([*OPTIONS, "-p", "The old\nman"]) == 0
    said = capsys.readouterr().out
    assert run([*OPTIONS, "-f", str(tmp_path / "prompt.txt")]) == 0
    assert capsys.readouterr().out == said
    piped = subprocess.run([sys.executable, "-m", "rwkvquant", *OPTIONS, "-p", "-"], input=b"The old\nman\n", capture_output=True)
    assert piped.returncode == 0 and piped.stderr == b"" and piped.stdout.decode() == said


def test_a_prompt_that_is_not_utf_8_is_refused_with_its_place(tmp_path: Path, typed: io.BytesIO) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match=r"text in UTF-8; byte 3 of .*latin\.txt is not"):
        read_prompt(None, str(tmp_path / "latin.txt"))
    typed.write(b"\xff\xfea\x00")
    with pytest.raises(ConfigError, match="byte 0 of stdin is not"):
        read_prompt("-", None)


def test_a_prompt_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, reason in ((tmp_path / "nowhere.txt", "No such file"), (tmp_path, "Is a directory")):
        assert run([*OPTIONS, "-f", str(file)]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith(f"rwkvquant: the prompt cannot be read from {file}: {reason}")


def test_a_text_and_a_file_are_refused_together(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("The", "-", ""):
        assert run([*OPTIONS, "-p", text, "-f", "prompt.txt"]) == 2
        assert "either as text with -p or in a file with -f" in capsys.readouterr().err
