"""We and torch can read the random checkpoint of the benchmarks, and it is the same each time."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rwkvquant.architectures import Dims
from rwkvquant.checkpoints import open_checkpoint


def script() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "random_pth.py"
    spec = importlib.util.spec_from_file_location("random_pth", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("arch", "ranks"), [("rwkv7", {"Rw": 8, "Ra": 8, "Rv": 4, "Rg": 16}), ("rwkv6", {"Rm": 4, "Rd": 8})])
def test_random_checkpoints_are_read_back_whole(tmp_path: Path, arch: str, ranks: dict[str, int]) -> None:
    dims = Dims(2, 64, 128, 96, 4, 16, ranks)
    for name in ("one", "other"):
        script().write_random_pth(tmp_path / f"{name}.pth", arch, dims)
    checkpoint, loaded = open_checkpoint(tmp_path / "one.pth"), torch.load(tmp_path / "one.pth", weights_only=True)
    assert (checkpoint.arch, checkpoint.dims) == (arch, dims) and set(loaded) == set(checkpoint.tensors)
    for name, tensor in loaded.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(torch.from_numpy(checkpoint.read(name)), tensor.float())
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "other.pth").read_bytes()
    key = loaded["blocks.1.ffn.key.weight"].float()
    assert 0.5 < float(key.square().sum(1).mean()) < 2  # a row has length about 1


@pytest.mark.parametrize("width", [192, 256])  # with the norms before the mixes, and after them
def test_random_checkpoints_of_images_are_read_back(tmp_path: Path, width: int) -> None:
    dims = Dims(2, width, 2 * width, positions=4, patch=4, channels=3, classes=5)
    script().write_random_pth(tmp_path / "one.pth", "vrwkv", dims)
    checkpoint = open_checkpoint(tmp_path / "one.pth")
    assert (checkpoint.arch, checkpoint.dims) == ("vrwkv", dims)
    assert ("backbone.layers.0.gamma1" in checkpoint.tensors) == (width != 192)
