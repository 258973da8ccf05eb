"""On a terminal the progress is a live bar, which pipes never see: these run in a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rwkvquant.cli.demo import EMBEDDED
from tests.helpers import random_state_dict, write_pth


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pth(tmp_path / "model.pth", random_state_dict("rwkv7", layers=1, width=64, hidden=64))
    (tmp_path / "some.txt").write_text("A text to calibrate on, and to compare on. " * 20)
    return tmp_path


def on_a_terminal(folder: Path, *arguments: str) -> tuple[int, str]:
    """(exit code, everything that a person would see)."""
    shown = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 4096)
        shown.extend(data)
        return data

    command = ["sh", "-c", 'cd "$0" && exec "$@"', str(folder), sys.executable, "-m", "rwkvquant", *arguments]
    status = pty.spawn(command, read)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


SMALL = ("--calib", "some.txt", "--calib-rows", "2", "--calib-len", "32")


@pytest.mark.parametrize(
    "arguments",
    [
        ("quantize", "model.pth", "-o", "out.safetensors", *SMALL),
        ("quantize", "model.pth", "--dry-run", "--method", "rtn"),
        ("demo", "--checkpoint", "model.pth", "--text", "some.txt", "--max-tokens", "64"),
    ],
    ids=["quantize", "dry run", "demo"],
)
def test_commands_run_on_a_terminal(folder: Path, arguments: tuple[str, ...]) -> None:
    code, shown = on_a_terminal(folder, *arguments)
    assert code == 0 and "Traceback" not in shown, shown
    assert "projections and LoRA factors" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupted_job_says_so_and_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    # A pipe as calibration text that nobody writes to: the job waits there until it is interrupted.
    os.mkfifo(folder / "never.txt")
    command = [sys.executable, "-m", "rwkvquant", "quantize", "model.pth", "-o", "out.safetensors", "--calib", "never.txt"]
    # A test run in the background of a shell inherits SIGINT as ignored, and would hand that on.
    job = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    with open(folder / "never.txt", "w"):  # returns when the job has opened the other end, so it is well under way
        time.sleep(0.2)
        job.send_signal(number)
        _, said = job.communicate(timeout=60)
    assert job.returncode == 130 and said.strip().endswith("rwkvquant: interrupted") and "Traceback" not in said
    assert sorted(path.name for path in folder.iterdir()) == ["model.pth", "never.txt", "some.txt"]


def chat_on_a_terminal(keys: list[bytes], *options: str, history: str = "") -> str:
    """What a person sees who types each of `keys` after a prompt; the last one ends the chat. No history is kept by default."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = os.environ | {"RWKVQUANT_HISTORY": history}
        os.execve(sys.executable, [sys.executable, "-m", "rwkvquant", "chat", str(EMBEDDED), *options], environment)
    shown = b""
    try:
        for count, typed in enumerate(keys, start=1):
            while shown.count(b"User: ") < count:
                shown += os.read(terminal, 4096)
            os.write(terminal, typed)
        while True:
            shown += os.read(terminal, 4096)
    except OSError:  # the other end was closed: chat has ended
        pass
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return shown.decode(errors="replace")


def test_arrow_keys_edit_the_line_of_a_chat() -> None:
    shown = chat_on_a_terminal([b"/quii\x1b[Dt\x1b[C\x7f\r"], "-n", "1")  # left, t, right, delete backwards: /quit
    assert "^[[D" not in shown


def test_a_chat_shows_its_seed_once_and_the_seed_repeats_it() -> None:
    def answer(shown: str) -> str:
        return shown.partition("Assistant:")[2].partition("User: ")[0]

    keys, wild = [b"Hi\r", b"/quit\r"], ("-n", "6", "--temperature", "5", "--top-p", "1")
    first = chat_on_a_terminal(keys, *wild)
    seeds = re.findall(r"--seed (\d+) repeats", first)
    assert len(seeds) == 1 and answer(first).strip()
    assert answer(chat_on_a_terminal(keys, *wild, "--seed", seeds[0])) == answer(first)


UP = b"\x1b[A"


def test_a_later_chat_has_the_lines_of_an_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "history"
    chat_on_a_terminal([b"Hello there\r", b"/quit\r"], "-n", "1", history=str(file))
    assert file.read_text() == "Hello there\n/quit\n"
    shown = chat_on_a_terminal([UP + UP + b"\r", b"/quit\r"], "-n", "1", history=str(file))
    assert "Hello there" in shown and file.read_text() == "Hello there\n/quit\nHello there\n/quit\n"
    chat_on_a_terminal([b"a secret\r", b"/quit\r"], "-n", "1", "--no-history", history=str(file))
    assert "secret" not in file.read_text()


def test_a_history_that_cannot_be_written_does_not_end_a_chat(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shown = chat_on_a_terminal([b"Hi\r", b"/quit\r"], "-n", "1", history=str(tmp_path / "file" / "history"))
    assert "the history of this chat could not be saved in" in shown.replace("\r\n", " ") and "Traceback" not in shown
