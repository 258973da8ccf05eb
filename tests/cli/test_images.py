"""`inspect` shows a model for images; every command for text refuses it in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
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


def test_inspect_and_verify_take_a_packed_file_and_commands_for_text_refuse_it(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Once upon a time. " * 99)
    assert run(["quantize", checkpoint, "-o", "out.safetensors", "--method", "rtn", "--code-bits", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokenizer"] is None
    assert run(["verify", "out.safetensors"]) == 0 and run(["inspect", "out.safetensors", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert shown["tokenizer"] is None and shown["dims"]["classes"] == 5
    assert shown["image"] == {
        **{"task": "classify", "family": None, "grid": [2, 6], "post_norm": True, "classes": list("abcde")},
        **{"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
    }
    assert run(["inspect", "out.safetensors", "--ledger"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "patches of 4 x 4, position embedding 2 x 6, 5 classes, to classify, method rtn" in words and "tokenizer" not in words
    packed = {
        **{"generate": ["-p", "x"], "chat": [], "eval": ["--text", "text.txt"], "export": ["-o", "out.pth"]},
        "compare": ["out.safetensors", "--text", "text.txt"],
    }
    for command, more in packed.items():
        assert run([command, "out.safetensors", *more]) == 2, command
        error = " ".join(capsys.readouterr().err.split())
        assert "out.safetensors: Vision-RWKV is a model for images, and this works with text models only" in error, command


def test_activations_shows_those_of_images(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "set.npz", images=np.random.default_rng(0).integers(0, 256, (3, 8, 24, 3), dtype=np.uint8))
    images = str(tmp_path / "set.npz")
    for tensor, activation, values in (("layers.1.att.spatial_mix_k", "att.shift_delta", 3 * 12 * 24), ("head", "head.x", 3 * 24)):
        assert run(["activations", checkpoint, tensor, "--images", images, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert (shown["activation"], shown["values"]) == (activation, values)
    text = str(write_pth(tmp_path / "text.pth", random_state_dict("rwkv7")))
    mistakes = {
        "reads images: give --images, and neither --text nor --tokenizer": [checkpoint, "head"],
        "is a text model; give --text, not --images": [text, "head", "--images", images],
        "no name of a matrix or element-wise vector matches": [checkpoint, "patch_embed", "--images", images],
    }
    for sentence, arguments in mistakes.items():
        assert run(["activations", *arguments]) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())


def test_quantize_takes_no_tokenizer_for_images(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.safetensors")
    assert run(["quantize", checkpoint, "-o", out, "--method", "rtn", "--tokenizer", "world"]) == 2
    assert "a model for images has no tokenizer; leave --tokenizer world out" in " ".join(capsys.readouterr().err.split())


def test_the_sizes_of_images_are_not_shown_for_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_pth(tmp_path / "text.pth", random_state_dict("rwkv7"))
    assert run(["inspect", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown["dims"]) == ["layers", "width", "hidden", "vocab", "heads", "head_size", "ranks"] and "image" not in shown


COMMANDS = {
    "generate": ["-p", "x"],
    "chat": [],
    "eval": ["--text", "text.txt"],
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
    assert (
        f"{checkpoint}: Vision-RWKV is a model for images, and this works with text models only; for images there are `rwkvquant classify`"
        in error
    )
    assert not Path("out.safetensors").exists() and not Path("out.gguf").exists()
