"""eval and compare with --images, on small random models and sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.cli.main import run
from tests.helpers import random_state_dict, write_pth
from tests.images.files import encoded, in_one_array, random_image, write_npz
from tests.vision import random_vrwkv, with_meta

IMAGES = np.stack([random_image(12, 12, seed) for seed in range(6)])
BOXES = np.array([[0, 0, 6, 6, image % 5] for image in range(6)], np.float32)
LABELS = {
    "head": {"labels": np.arange(6) % 5},
    "decode_head": {"labels": np.arange(6 * 12 * 12, dtype=np.int64).reshape(6, 12, 12).astype(np.uint8) % 6},
    "bbox_head": {"boxes": BOXES, "box_image": np.arange(6)},
}
SCORES = {"head": "top1", "decode_head": "miou", "bbox_head": "ap50"}


@pytest.fixture(params=LABELS)
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """In the current folder: a checkpoint, one with other weights, a set with labels and one without."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("model.pth", 0), ("other.pth", 1)):
        tensors = random_vrwkv(head=request.param, seed=seed)
        torch.save(with_meta(tensors, img_size=12, post_norm=False, classes=list("abcde")), name)
    write_npz(tmp_path / "set.npz", **in_one_array([encoded(image, "PNG") for image in IMAGES]), **LABELS[request.param])
    write_npz(tmp_path / "bare.npz", images=IMAGES)
    return SCORES[request.param]


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert run([*words, "--json"]) == 0
    result: dict[str, object] = json.loads(capsys.readouterr().out)
    return result


def test_eval_gives_the_scores_of_the_head(files: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = as_json(capsys, "eval", "model.pth", "--images", "set.npz")
    assert result["images"] == 6 and 0 <= float(str(result[files])) <= 1 and len(result[f"{files}_ci95"]) == 2  # type: ignore[arg-type]
    few = as_json(capsys, "eval", "model.pth", "--images", "set.npz", "--max-images", "4", "--batch", "3")
    assert few["images"] == 4 and few["images_sha256"] != result["images_sha256"]
    assert run(["eval", "model.pth", "--images", "set.npz"]) == 0
    assert f"{files} " in capsys.readouterr().out


def test_compare_gives_the_divergence_and_what_it_costs(files: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = as_json(capsys, "compare", "model.pth", "other.pth", "--images", "set.npz")
    assert float(str(result["kl_mean"])) > 0 and result["score"] == files and result["original"] == "model.pth"
    assert float(str(result["delta_score"])) == float(str(result["score_quantized"])) - float(str(result["score_base"]))
    bare = as_json(capsys, "compare", "model.pth", "other.pth", "--images", "bare.npz")
    assert bare["kl_mean"] == result["kl_mean"] and bare["score"] is None  # the same pixels
    assert run(["compare", "model.pth", "model.pth", "--images", "set.npz"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "same prediction 100.00 % [100.00, 100.00]" in shown and "points +0.00 [+0.00, +0.00]" in shown


def test_a_folder_with_a_folder_for_each_class_is_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(with_meta(random_vrwkv(), img_size=12, post_norm=False, classes=list("abcde")), "model.pth")
    for kind, image in zip("bade", IMAGES, strict=False):
        (tmp_path / "val" / kind).mkdir(parents=True)
        (tmp_path / "val" / kind / "photo.png").write_bytes(encoded(image, "PNG"))
    assert as_json(capsys, "eval", "model.pth", "--images", "val")["images"] == 4


WRONG = {
    "eval model.pth": "eval needs one of --text FILE, --lambada FILE and --images SET",
    "eval model.pth --images set.npz --text x.txt": "eval needs one of --text FILE, --lambada FILE and --images SET",
    "eval model.pth --images bare.npz": "a set needs labels, or a folder for each class (docs/images.md)",
    "eval model.pth --images nowhere": "nowhere: there is no such file or folder",
    "eval model.pth --images set.npz --context 9": "--context is for text; leave it out with --images",
    "eval model.pth --images set.npz --max-images 0": "at least 1 image must be used; got 0",
    "eval model.pth --images set.npz --batch 0": "batch must be at least 1 image; got 0",
    "eval text.pth --images set.npz": "text.pth: RWKV-7 (x070) is a text model; it is measured with --text, not with --images",
    "compare model.pth text.pth --images set.npz": "text.pth: RWKV-7 (x070) is a text model",
    "compare model.pth other.pth --images set.npz": "can be compared if task, classes, patch and grid are the same",
    "compare model.pth model.pth": "compare needs either --text FILE or --images SET",
    "compare model.pth model.pth --text x.txt --max-images 3": "--max-images needs --images SET",
}


@pytest.mark.parametrize("line", WRONG)
def test_mistakes_are_one_sentence(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(with_meta(random_vrwkv(), img_size=12, post_norm=False), "model.pth")
    torch.save(with_meta(random_vrwkv(classes=4), img_size=12, post_norm=False), "other.pth")
    write_pth(tmp_path / "text.pth", random_state_dict("rwkv7"))
    write_npz(tmp_path / "set.npz", images=IMAGES, labels=np.arange(6) % 4)
    write_npz(tmp_path / "bare.npz", images=IMAGES)
    assert run(line.split()) == 2
    assert WRONG[line] in " ".join(capsys.readouterr().err.split())
