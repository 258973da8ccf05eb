"""With --adapter, every command that reads a checkpoint reads the merged one; a packed file has no adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import rwkvquant
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.cli.demo import EMBEDDED
from rwkvquant.cli.main import run
from tests.helpers import random_state_dict, write_pth

KEY = "blocks.0.att.key"
GENERATE = ["-p", "Hi", "-n", "4", "--temperature", "0", "--seed", "0"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """base.pth, a.pth (an adapter of one matrix), merged.pth (both, by definition) and some.txt."""
    tensors = random_state_dict("rwkv7", layers=1, width=32, hidden=80, head_size=8)
    A, B = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)), torch.randn(32, 4, generator=torch.Generator().manual_seed(2))
    write_pth(tmp_path / "base.pth", tensors)
    write_pth(tmp_path / "a.pth", {f"{KEY}.lora_A": A, f"{KEY}.lora_B": B})
    merged = open_checkpoint(tmp_path / "base.pth", f"{tmp_path / 'a.pth'},alpha=8")
    torch.testing.assert_close(torch.from_numpy(merged.read(f"{KEY}.weight")), tensors[f"{KEY}.weight"] + 2 * B @ A)
    write_pth(tmp_path / "merged.pth", {name: torch.from_numpy(merged.read(name)) for name in tensors})
    (tmp_path / "some.txt").write_text("A text that is long enough for a window or two. " * 20)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {key: value for key, value in printed.items() if key not in ("file", "original", "quantised")}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("eval", ["--text", "some.txt", "--context", "64"]),
        ("compare", ["base.pth", "--text", "some.txt", "--context", "64"]),
        ("activations", ["blocks.0.att.output.weight", "--rows", "2", "--length", "32"]),
        ("generate", GENERATE),
    ],
)
def test_an_adapter_is_merged(command: str, options: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged = result(capsys, command, "merged.pth", *options)
    assert result(capsys, command, "base.pth", *options, "--adapter", "a.pth,alpha=8") == merged
    assert result(capsys, command, "base.pth", *options) != merged


def test_in_python_too(folder: Path) -> None:
    merged, given = rwkvquant.load("merged.pth"), rwkvquant.load("base.pth", adapter="a.pth,alpha=8")
    assert merged.generate("Hi", max_tokens=0).logits_hash == given.generate("Hi", max_tokens=0).logits_hash


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("eval", ["--text", "some.txt"]),
        ("compare", [str(EMBEDDED), "--text", "some.txt"]),
        ("generate", GENERATE),
        ("chat", []),
        ("serve", []),
    ],
)
def test_a_packed_file_with_an_adapter_is_refused(
    command: str, options: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, str(EMBEDDED), *options, "--adapter", "a.pth,alpha=8"]) == 2
    said = capsys.readouterr().err
    assert f"{EMBEDDED} is a packed file; got the adapter a.pth,alpha=8. Quantise the checkpoint with it: rwkvquant quantize" in said
