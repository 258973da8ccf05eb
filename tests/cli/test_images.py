"""`inspect` shows a model for images; every command for text refuses it in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rwkvquant.cli.main import run
from tests.helpers import random_state_dict, write_pth
from tests.vision import random_vrwkv, with_meta


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    path = tmp_path / "vision.pth"
    torch.save(with_meta(random_vrwkv(grid=(2, 6), layer_scale=True), img_size=[8, 24], post_norm=True, classes=list("abcde")), path)
    return str(path)


def test_inspect_shows_sizes_settings_and_roles(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", checkpoint, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["arch"] == "vrwkv" and shown["layout"] == "opengvlab" and shown["tokenizer"] is None
    assert shown["image"]["grid"] == [2, 6] and shown["image"]["post_norm"] is True and shown["image"]["classes"] == list("abcde")
    sizes = {"positions": 12, "patch": 4, "channels": 3, "classes": 5}
    assert shown["dims"].items() >= sizes.items()
    assert sum(shown["parameters_by_role"].values()) == shown["parameters"]
    assert run(["inspect", checkpoint, "--tensors"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "vrwkv, 2 layers x 24, patches of 4 x 4, position embedding 2 x 6, 5 classes" in words
    assert "norms after the mixes" in words and "tokenizer" not in words and "24 x 3 x 4 x 4" in words


def test_the_sizes_of_images_are_not_shown_for_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_pth(tmp_path / "text.pth", random_state_dict("rwkv7"))
    assert run(["inspect", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown["dims"]) == ["layers", "width", "hidden", "vocab", "heads", "head_size", "ranks"] and "image" not in shown


COMMANDS = {
    "quantize": ["-o", "out.safetensors"],
    "quantize --dry-run": ["-o", "out.safetensors", "--dry-run"],
    "generate": ["-p", "x"],
    "chat": [],
    "eval": ["--text", "text.txt"],
    "activations": ["att.xk"],
    "export": ["-o", "out.gguf", "--layout", "gguf", "--gguf-type", "q8_0"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_for_text_say_what_works(
    checkpoint: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Once upon a time. " * 99)
    assert run([command.split()[0], checkpoint, *COMMANDS[command]]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"{checkpoint}: Vision-RWKV is a model for images, and this works with text models only; today `rwkvquant inspect`" in error
    assert not Path("out.safetensors").exists() and not Path("out.gguf").exists()
