"""Ctrl-C, SIGTERM and SIGHUP during `quantize --work-dir`: the block is finished, exit code 75, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rwkvquant import CalibrationConfig, QuantizeConfig, quantize
from rwkvquant.cli.signals import finish_first
from tests.helpers import random_state_dict, write_pth

TEXT = "A text to calibrate on, and to compare on. " * 60
OPTIONS = ("--method", "gptq", "--code-bits", "3", "--calib", "some.txt", "--calib-rows", "4", "--calib-len", "64")


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rwkvquant", "quantize", "model.pth", "-o", "out.safetensors", *OPTIONS, "--work-dir", "work"]
    # A test run in the background of a shell inherits SIGINT as ignored, and would hand that on.
    defaults = lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)]  # noqa: E731
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=defaults)


def test_an_interrupted_job_finishes_its_block_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    write_pth(tmp_path / "model.pth", random_state_dict("rwkv7", layers=2, width=64))
    os.mkfifo(tmp_path / "some.txt")
    with start(tmp_path) as job:
        with open(tmp_path / "some.txt", "w") as text:  # returns when the job has opened the other end, so it is well under way
            job.send_signal(signal.SIGINT)
            assert job.stderr is not None
            while "finishing the current block" not in (line := job.stderr.readline()):
                assert line, "the job ended without a word"
            text.write(TEXT)
        said = job.stderr.read()
    assert job.returncode == 75 and "Traceback" not in said, said
    expected = "rwkvquant: stopped after the embedding; the same command continues from there (work directory work)"
    assert said.splitlines()[-1] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pth", "some.txt", "work"]

    (tmp_path / "some.txt").unlink()
    (tmp_path / "some.txt").write_text(TEXT)
    with start(tmp_path) as job:
        _, said = job.communicate()
    assert job.returncode == 0 and "block 2 of 2" in said and "embedding the calibration text" not in said, said
    config = QuantizeConfig(method="gptq", code_bits=3, calibration=CalibrationConfig("some.txt", rows=4, length=64))
    before = os.getcwd()
    try:
        os.chdir(tmp_path)  # the file notes the path of the text as it was given
        quantize("model.pth", "whole.safetensors", config)
    finally:
        os.chdir(before)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_the_first_signal_asks_and_the_second_does_what_it_did_before(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(number, signal.default_int_handler)
    try:
        with finish_first() as stop:
            assert not stop()
            signal.raise_signal(number)
            assert stop() and "finishing the current block" in capfd.readouterr().err
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_a_hang_up_lets_go_of_the_terminal_and_of_nothing_else(tmp_path: Path) -> None:
    """Only then can the job go on to the end of its block: every write to the closed terminal would fail."""
    program = """
import os, pty, signal, sys
from rwkvquant.cli.signals import finish_first
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the tests inherit that it is ignored
parent, child = pty.openpty()
os.dup2(child, 2)
os.close(child)
with finish_first() as stop:
    os.close(parent)
    signal.raise_signal(signal.SIGHUP)
    print("to the terminal", file=sys.stderr, flush=True)
    print(stop())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0 and done.stdout == "True\n"


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with finish_first() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)
