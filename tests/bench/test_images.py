"""Random models for images have the released sizes, and bench measures how many images they read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.architectures import Dims, architecture
from rwkvquant.architectures.vrwkv import ARCHITECTURE
from rwkvquant.bench.layouts import PRESETS
from rwkvquant.bench.random_model import write_random_model
from rwkvquant.bench.shapes import released
from rwkvquant.cli.main import run
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.session import load

# Parameters of the published classifiers, in millions (the paper's table 2).
PARAMETERS = {"vrwkv-t": 6.2, "vrwkv-s": 23.8, "vrwkv-b": 93.7}
SMALL = Dims(2, 128, 256, positions=9, patch=4, channels=3, classes=7)


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_are_the_released_ones(name: str) -> None:
    arch, dims = released(name)
    own = architecture(arch)
    usual = own.usual(dims)
    used = [spec for _, spec, _ in own.used(dims.layers) if not spec.optional or spec.name in usual]
    count = sum(math.prod(spec.forward_shape(dims)) for spec in used)
    assert count / 1e6 == pytest.approx(PARAMETERS[name], rel=0.01)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_random_model_is_a_whole_packed_file_that_classifies(preset: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("a", "b", "c")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        write_random_model(path, "vrwkv", SMALL, layouts=preset, bits=4.5, seed=seed)
    open_packed(paths[0]).verify()
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    logits = load(paths[0], modality="image").logits(image)[0]
    assert logits.shape == (7,) and 0.01 < logits.std() < 100


def test_only_the_smallest_released_model_has_no_layer_scale() -> None:
    scaled = {name: "gamma1" in ARCHITECTURE.usual(dims) for name, dims in ARCHITECTURE.released.items()}
    assert scaled == {"vrwkv-t": False, "vrwkv-s": True, "vrwkv-b": True, "vrwkv-l": True}


def test_bench_reports_images_a_second(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkvquant.bench.images.SECONDS", 0.01)
    path = tmp_path / "m.safetensors"
    write_random_model(path, "vrwkv", SMALL, bits=4.5)
    assert run(["bench", str(path), "--json", "--rounds", "2", "--batch", "3", "--threads", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    for key in ("images_s", "roofline_gop_s", "roofline_share", "operations_per_image", "peak_rss_bytes", "file_bytes"):
        assert result[key] > 0, key
    assert result["threads"] == 2 and set(result["batch_images_s"]) == {"3"} and len(result["features_hash"]) == 16
    assert result["image_size"] == [12, 12] and result["patches"] == 9
    assert result["operations_per_image"] == 2 * 9 * 2 * (5 * 128 * 128 + 2 * 128 * 256)
    assert run(["bench", str(path), "--rounds", "1", "--threads", "1"]) == 0
    assert "images of 12 x 12" in capsys.readouterr().out
    assert run(["bench", str(path), "--rounds", "0"]) == 2
    assert "rounds must be at least 1" in capsys.readouterr().err
