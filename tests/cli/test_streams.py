"""Closed streams, encodings that lack a character, bytes that are no text, full disks and readers that leave: no traceback, no loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rwkvquant.cli import chat, demo, main
from rwkvquant.cli.output import stdout as console
from rwkvquant.cli.output import table

COMMAND = [sys.executable, "-m", "rwkvquant"]
PACKED = str(demo.EMBEDDED)


def run(*arguments: str | bytes, redirect: str = "", encoding: str | None = None, **options: object) -> subprocess.CompletedProcess[bytes]:
    """`redirect` as a shell writes it, such as ">&-"."""
    env = dict(os.environ) | ({"PYTHONIOENCODING": encoding} if encoding else {})
    shell = ["sh", "-c", f'"$@" {redirect}', "_", *COMMAND, *arguments]
    return subprocess.run(shell, capture_output=True, env=env, check=False, timeout=120, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "redirect"),
    [
        (["--version"], ">&-"),
        (["verify", PACKED], ">&-"),
        (["verify", PACKED, "--json"], ">&-"),
        (["generate", PACKED, "-p", "hi", "-n", "2"], "2>&-"),
        (["chat", PACKED], "<&-"),
        (["verify", PACKED], "<&- >&- 2>&-"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(Path(part).name for part in value),
)
def test_a_closed_stream_is_the_null_device(arguments: list[str], redirect: str) -> None:
    done = run(*arguments, redirect=redirect)
    assert done.returncode == 0 and done.stderr == b""


def test_a_file_that_is_opened_does_not_take_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    done = run("export", PACKED, "--layout", "safetensors", "-o", str(tmp_path / "out.safetensors"), redirect="<&- >&- 2>&-")
    assert done.returncode == 0
    with open(tmp_path / "out.safetensors", "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        assert "emb.weight" in json.loads(file.read(length))


@pytest.mark.parametrize(("encoding", "prompt"), [("gbk", "caf\u00e9 \U0001f600"), ("latin-1", "\u4f60\u597d"), ("ascii", "\u00f1")])
def test_a_character_that_the_terminal_lacks_is_escaped_and_the_text_goes_on(encoding: str, prompt: str) -> None:
    done = run("generate", PACKED, "-p", prompt, "-n", "3", "--seed", "0", encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(prompt.encode(encoding, errors="backslashreplace"))


def test_an_error_handler_that_the_user_chose_stays() -> None:
    done = run("generate", PACKED, "-p", "\u4f60", "-n", "1", "--seed", "0", encoding="ascii:replace")
    assert done.returncode == 0 and done.stdout.startswith(b"?")


def test_help_is_readable_in_ascii() -> None:
    assert run("quantize", "--help", encoding="ascii").returncode == 0


def test_a_file_name_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.safetensors"
    os.symlink(PACKED, name)
    done = run("verify", name, encoding="utf-8:strict")
    assert done.returncode == 0 and b"caf\\udce9.safetensors" in done.stdout


def test_a_line_that_is_no_text_costs_one_sentence_and_not_the_conversation() -> None:
    done = run("chat", PACKED, "-n", "3", "--seed", "0", input=b"hello\nh\xe9llo\nhello again\n", encoding="utf-8:strict")
    assert done.returncode == 0 and done.stdout.count(b"Assistant:") == 3
    assert done.stderr.startswith(b"text must be Unicode") and done.stderr.count(b"\n") == 1


def test_a_path_that_no_file_can_have_costs_one_sentence_and_not_the_conversation() -> None:
    done = run("chat", PACKED, "-n", "2", "--seed", "0", input=b"hello\n/save .\n/save /\n/load .\nstill there?\n")
    assert done.returncode == 0 and done.stdout.count(b"Assistant:") == 2
    assert len(done.stderr.splitlines()) == 3 and b"Traceback" not in done.stderr


def test_a_chat_command_that_is_wrong_gets_one_sentence_and_the_conversation_continues() -> None:
    done = run("chat", PACKED, "-n", "2", "--seed", "0", input=b"/save\n/safe file\nhello\n")
    needs, unknown = done.stderr.decode().splitlines()
    assert needs == "/save needs the name of a file: /save FILE" and unknown.startswith(
        "there is no command /safe. /help shows all commands; "
    )
    assert done.returncode == 0 and done.stdout.count(b"Assistant:") == 1


def test_keys_that_are_no_text_never_reach_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _: " he\x1b[D\x1b[1;5C\x1bOAl\x08lo\x7f\x00 w\u00f6r\tld \x9b")
    assert chat._read() == "hello w\u00f6r\tld"


@pytest.mark.parametrize("arguments", [["verify", PACKED], ["inspect", PACKED, "--tensors"], ["generate", PACKED, "-n", "2"]])
def test_a_full_disk_under_the_output_is_one_sentence(arguments: list[str]) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    done = run(*arguments, redirect="> /dev/full")
    assert done.returncode == 2 and done.stderr.decode().splitlines()[-1].startswith("rwkvquant: the disk is full")
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_a_reader_that_leaves_ends_the_output_quietly() -> None:
    done = run("inspect", PACKED, "--tensors", redirect="| head -n 1")
    assert done.returncode == 0 and done.stderr == b""


def test_a_table_is_never_narrower_than_its_numbers() -> None:
    built = table("", ["", "weights"], [["projections and LoRA factors", "6,291,456"]])
    with console.capture() as captured:
        console.print(built, width=20)
    assert "6,291,456" in captured.get()


@pytest.mark.parametrize(
    ("arguments", "pointed_to"),
    [
        (["generate", PACKED, "-n", "0"], "rwkvquant generate --help."),
        (["quantize"], "rwkvquant quantize --help."),
        (["genrate"], "rwkvquant --help."),
    ],
)
def test_a_usage_error_points_to_the_help_of_its_command(arguments: list[str], pointed_to: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and done.stderr.decode().rstrip().endswith(f"See {pointed_to}")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate")],
)
def test_a_lack_of_memory_is_one_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("rwkvquant.runtime.inspection.open_packed", refuse)
    assert main.run(["verify", PACKED]) == 2
    assert capsys.readouterr().err.startswith("rwkvquant: there is not enough memory; try ")


def test_another_error_of_ours_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("rwkvquant.runtime.inspection.open_packed", fail)
    with pytest.raises(RuntimeError, match="ours"):
        main.run(["verify", PACKED])
