"""classify, segment and detect: what they print, the pictures they write, and one sentence for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rwkvquant import load
from rwkvquant.cli.main import run
from rwkvquant.images import BILINEAR, resample
from rwkvquant.images.draw import OPACITY, Frame, colour_of, frames, overlay
from tests.helpers import random_state_dict, write_pth
from tests.vision import random_vrwkv, with_meta

HEADS = {"classify": "head", "segment": "decode_head", "detect": "bbox_head"}
NAMES = ["ant", "bee", "cat", "dog", "elk"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model(task: str, **config: Any) -> str:
    torch.save(with_meta(random_vrwkv(head=HEADS[task]), **({"classes": NAMES} | config)), f"{task}.pth")
    return f"{task}.pth"


def picture(name: str = "photo.png", height: int = 30, width: int = 50) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(name)
    return name


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_classify_prints_classes_with_bars(capsys: pytest.CaptureFixture[str]) -> None:
    file, names = model("classify"), [picture("one.png"), picture("two.png", 20, 20)]
    assert run(["classify", file, *names, "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[4]] == names and len(lines) == 8
    best = load(file, modality="image").classify(names, 3)[1].top
    for line, score in zip(lines[5:], best, strict=True):
        name, percent, sign, *bar = line.split()
        assert (name, percent, sign) == (score.name, f"{100 * score.probability:.1f}", "%")
        assert len("".join(bar)) == pytest.approx(30 * score.probability, abs=1)


def test_classify_in_json_has_every_image(capsys: pytest.CaptureFixture[str]) -> None:
    file, names = model("classify"), [picture("one.png"), picture("two.png", 20, 20)]
    assert run(["classify", file, *names, "--json", "--threads", "2"]) == 0
    shown = json.loads(capsys.readouterr().out)
    results = load(file, modality="image").classify(names)
    assert shown == {"model": file, "images": [{"file": n, **r.to_json()} for n, r in zip(names, results, strict=True)]}
    assert len(shown["images"][0]["top"]) == 5


def test_segment_writes_an_overlay_beside_the_picture(capsys: pytest.CaptureFixture[str]) -> None:
    file, name = model("segment"), picture()
    assert run(["segment", file, name]) == 0
    out = capsys.readouterr().out
    (result,) = load(file, modality="image").segment(name)
    assert out.splitlines()[0] == "photo.png -> photo.segment.png"
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [[s.name, f"{100 * s.share:.1f}"] for s in result.shares]
    drawn, original = np.asarray(Image.open("photo.segment.png")), np.asarray(Image.open(name))
    np.testing.assert_array_equal(drawn, overlay(original, result.labels))
    assert result.labels.shape == (30, 50)
    expected = (1 - OPACITY) * original[7, 9] + OPACITY * np.array(colour_of(result.labels[7, 9]))
    assert np.abs(drawn[7, 9] - expected).max() <= 0.51


def test_detect_writes_boxes_in_the_pictures_own_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    file, name = model("detect"), picture(height=120, width=240)
    assert run(["detect", file, name, "--threshold", "0.2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["images"][0]
    assert shown["output"] == "photo.detect.png" and shown["boxes"]
    small = resample(np.asarray(Image.open(name)), 12, 12, BILINEAR)
    same = load(file, modality="image").detect(small, 0.2)[0].boxes
    for box, scaled in zip(same, shown["boxes"], strict=True):
        np.testing.assert_allclose([box.left * 20, box.top * 10, box.right * 20, box.bottom * 10], [scaled[s] for s in SIDES], rtol=1e-6)
    assert (np.asarray(Image.open("photo.detect.png")) != np.asarray(Image.open(name))).any()
    assert run(["detect", file, name, "--threshold", "0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "photo.png -> photo.detect.png" and len(lines) == 1 + len(same)
    assert run(["detect", file, name, "--threshold", "1"]) == 0
    assert "nothing found; try a lower --threshold" in capsys.readouterr().out


SIDES = ("left", "top", "right", "bottom")


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_output_is_a_file_for_one_image_and_a_folder_for_several(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, names = model(task), [picture("a.png"), picture("b.png")]
    assert run([task, file, "a.png", "-o", "new/out.png"]) == 0 and Path("new/out.png").is_file()
    assert run([task, file, *names, "--output", "all"]) == 0
    assert sorted(path.name for path in Path("all").iterdir()) == [f"a.{task}.png", f"b.{task}.png"]
    assert run([task, file, *names, "--output", "one.png"]) == 2
    assert "--output must be a folder for several images; got one.png for 2" in said(capsys)
    assert run([task, file, "a.png", "-o", "a.png"]) == 2
    assert "the picture would replace the image a.png" in said(capsys)
    Path("c").mkdir()
    picture("c/a.png")
    assert run([task, file, "a.png", "c/a.png", "-o", "all"]) == 2
    assert f"two images would have the same picture, all/a.{task}.png" in said(capsys)


@pytest.mark.parametrize("task", HEADS)
def test_other_models_are_refused_in_a_sentence(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = str(write_pth(Path("text.pth"), random_state_dict("rwkv7")))
    assert run([task, text, picture()]) == 2
    assert f"{text}: RWKV-7 (x070) is a text model, and this works with models for images only" in said(capsys)
    other = "segment" if task == "classify" else "classify"
    assert run([task, model(other), picture()]) == 2
    assert f"this model cannot {task} images; its head can {other} them" in said(capsys)
    assert run([task, "missing.pth", picture()]) == 2
    assert "missing.pth: there is no such file" in said(capsys)
    assert not list(Path().glob("*.detect.png")) and not list(Path().glob("*.segment.png"))


def jpeg(name: str, **options: Any) -> bytes:
    picture("source.png")
    Image.open("source.png").save(name, "JPEG", **options)
    return Path(name).read_bytes()


def bad_images() -> dict[str, str]:
    """Name -> words of the sentence."""
    Path("truncated.jpg").write_bytes(jpeg("whole.jpg")[:700])
    Path("empty.png").write_bytes(b"")
    Path("text.png").write_text("no image")
    Path("bomb.png").write_bytes(png_header(60000, 60000))
    return {
        "truncated.jpg": "truncated.jpg: the image is truncated or damaged",
        "empty.png": "empty.png: an image must have data; this file is empty",
        "text.png": "text.png: this is not an image",
        "bomb.png": "bomb.png: an image may have at most",
        "no.png": "no.png: there is no such file",
    }


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is huge, in 57 bytes."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("task", HEADS)
def test_a_bad_image_is_one_sentence(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = model(task)
    for name, words in bad_images().items():
        assert run([task, file, name]) == 2
        error = said(capsys)
        assert words in error and "Traceback" not in error, error
    assert run([task, file, "."]) == 2 and "rwkvquant: .: " in said(capsys)


@pytest.mark.parametrize("task", HEADS)
def test_unusual_images_work(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, base = model(task), Image.open(picture())
    base.convert("CMYK").save("cmyk.jpg")
    base.convert("RGBA").save("alpha.png")
    base.convert("L").save("grey.png")
    base.convert("P").save("palette.png")
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save("deep.png")
    base.save("moving.gif", save_all=True, append_images=[base.rotate(90), base])
    names = ["cmyk.jpg", "alpha.png", "grey.png", "palette.png", "deep.png", "moving.gif"]
    assert run([task, file, *names, "--json"]) == 0
    assert [row["file"] for row in json.loads(capsys.readouterr().out)["images"]] == names


def test_frames_are_drawn_inside_the_picture_the_best_above() -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    red, blue = (255, 0, 0), (0, 0, 255)
    drawn = frames(pixels, [Frame(2, 3, 10, 12, red), Frame(-5, -5, 60, 60, blue), Frame(4, 4, 4, 4, blue)])
    assert not pixels.any()
    assert (
        (drawn[3, 2:10] == red).all() and (drawn[11, 2:10] == red).all() and (drawn[3:12, 2] == red).all() and (drawn[3:12, 9] == red).all()
    )
    assert not drawn[4:11, 3:9].any()
    assert (drawn[0] == blue).all() and (drawn[-1] == blue).all() and (drawn[:, 0] == blue).all() and (drawn[:, -1] == blue).all()


@pytest.mark.parametrize(("corner", "rows"), [((20, 40), slice(0, 40)), ((20, 0), slice(1, 30)), ((90, 45), slice(0, 45))])
def test_a_name_is_written_above_its_frame_and_stays_in_the_picture(corner: tuple[int, int], rows: slice) -> None:
    left, top = corner
    pixels, red = np.full((60, 100, 3), 128, np.uint8), (200, 0, 0)
    plain, named = (frames(pixels, [Frame(left, top, 98, 58, red, name)]) for name in ("", "Äpfel 1"))
    changed = (plain != named).any(-1)
    assert changed[rows].any() and (named[changed] == 255).all(-1).any() and (named[changed] == red).all(-1).any()
    if top >= 20:
        assert not changed[top:].any()


def test_a_name_longer_than_the_picture_is_cut() -> None:
    drawn = frames(np.zeros((8, 12, 3), np.uint8), [Frame(1, 1, 11, 7, (0, 200, 0), "a very long name")])
    assert drawn.shape == (8, 12, 3) and drawn.any()


def test_colours_of_classes_differ() -> None:
    assert len({colour_of(index) for index in range(100)}) == 100
    assert all(0 <= part <= 255 for index in range(1000) for part in colour_of(index))
