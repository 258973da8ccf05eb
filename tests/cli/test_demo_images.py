"""`demo --images` quantises a classifier, compares and shows, with fast methods in place of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.cli import demo_images
from rwkvquant.cli.main import run
from tests.images.files import random_image, write_npz
from tests.vision import random_vrwkv, with_meta

IMAGES = np.stack([random_image(12, 12, seed) for seed in range(8)])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_images, "OURS", "gptq")
    monkeypatch.setattr(demo_images, "OTHERS", ("rtn",))
    tensors = random_vrwkv(width=32, hidden=64)
    torch.save(with_meta(tensors, img_size=12, post_norm=False, classes=list("abcde")), "model.pth")
    write_npz(tmp_path / "test.npz", images=IMAGES, labels=np.arange(8) % 5)
    write_npz(tmp_path / "calib.npz", images=IMAGES[:4])
    return tmp_path


DEMO = ["demo", "--checkpoint", "model.pth", "--images", "test.npz", "--calib", "calib.npz"]


def test_it_quantises_compares_and_shows_what_each_says(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*DEMO, "-o", "kept.safetensors", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["compare"]) == {"gptq", "rtn"} and result["compare"]["gptq"]["images"] == 8
    assert [each["class"] for each in result["images"]] == list("abcdeabc") and set(result["images"][0]["original"]["class"]) <= set(
        "abcde"
    )
    assert Path("kept.safetensors").exists()
    assert run(DEMO) == 0
    words = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "against the original, 8 images it was not calibrated on" in words and "top-1 KL, nats/image same class" in words.replace(
        "┃ ", ""
    )


WRONG = {
    "demo --images test.npz": "--text, --images, --calib, --output and --report need --checkpoint",
    "demo --checkpoint model.pth --images test.npz": "a classifier of images needs --images SET and --calib SET, and no --text",
    "demo --checkpoint dense.pth --images test.npz --calib calib.npz": "the demo shows classes; the head of dense.pth can segment",
    "demo --checkpoint model.pth --images wrong.npz --calib calib.npz": "labels must be below 5, the classes of the model; got 7",
}


@pytest.mark.parametrize("line", WRONG)
def test_mistakes_are_one_sentence(line: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(with_meta(random_vrwkv(head="decode_head"), img_size=12, post_norm=False), "dense.pth")
    write_npz(files / "wrong.npz", images=IMAGES, labels=np.arange(8))
    assert run(line.split()) == 2
    assert WRONG[line] in " ".join(capsys.readouterr().err.split())
