"""Truncated and altered files: either the same tensors or a CheckpointError, never another result."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.checkpoints.pth import PthFile
from rwkvquant.errors import CheckpointError, RwkvQuantError
from tests.checkpoints.layouts import write_safetensors
from tests.checkpoints.writers import tensor_index, write_zip
from tests.helpers import random_state_dict, write_pth

MASKS = (0x01, 0x80, 0xFF, 0x24)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two storages and three tensors, as torch writes them."""
    base = torch.arange(6.0)
    return write_pth(tmp_path / "small.pth", {"a": base, "transposed": base.view(2, 3).t(), "half": torch.ones(3).half()})


def contents(path: Path) -> list[tuple] | None:
    """Every tensor with its name, dtype, shape and values, or None if the file is refused."""
    try:
        file = PthFile(path)
        return [(info.name, info.dtype, info.shape, file.read(name).tobytes()) for name, info in file.tensors.items()]
    except CheckpointError as error:
        assert len(str(error)) < 400
        return None


def test_every_altered_byte_is_found_or_harmless(small: Path) -> None:
    good, original = small.read_bytes(), contents(small)
    outcomes = []
    for position in range(len(good)):
        small.write_bytes(good[:position] + bytes([good[position] ^ MASKS[position % 4]]) + good[position + 1 :])
        outcomes.append(contents(small))
    assert all(outcome in (None, original) for outcome in outcomes)
    assert outcomes.count(None) > 500  # headers, names, the index and the data; the rest is padding, dates and versions


def test_several_altered_bytes_are_found_or_harmless(small: Path) -> None:
    good, original = small.read_bytes(), contents(small)
    chooser = random.Random(0)
    directory = good.index(b"PK\x01\x02")
    for _ in range(1000):
        altered = bytearray(good)
        for _ in range(chooser.randint(1, 4)):  # most of them in the directory, which no checksum protects
            altered[chooser.randrange(directory if chooser.random() < 0.8 else 0, len(good))] = chooser.choice((0, 1, 0x7F, 0x80, 0xFF))
        small.write_bytes(altered)
        assert contents(small) in (None, original)


def test_altered_indexes_with_a_right_checksum_stay_inside_the_file(tmp_path: Path) -> None:
    """What the CRC-32 cannot see: an index that was made wrong on purpose. Any tensors are fine, any other error is not."""
    good = tensor_index(shape=(2, 3), strides=(3, 1))
    chooser = random.Random(1)
    outcomes = []
    for position in range(len(good)):
        for value in {0, 1, 0xFF, good[position] ^ 1, chooser.randrange(256)}:
            path = write_zip(tmp_path / "a.pth", good[:position] + bytes([value]) + good[position + 1 :])
            outcomes.append(contents(path))
    assert 20 < len(outcomes) - outcomes.count(None) < len(outcomes)  # other names, offsets, shapes: some altered indexes are valid


def test_truncated_files_are_refused(small: Path) -> None:
    good = small.read_bytes()
    for length in range(1, len(good), 3):
        small.write_bytes(good[:length])
        assert contents(small) is None, length


def test_a_truncated_checkpoint_says_so(tmp_path: Path) -> None:
    path = write_pth(tmp_path / "a.pth", random_state_dict("rwkv7", layers=1, width=32, head_size=8))
    good = path.read_bytes()
    for share in (0.01, 0.3, 0.5, 0.9, 0.999):
        path.write_bytes(good[: int(share * len(good))])
        with pytest.raises(RwkvQuantError, match=r"a\.pth: .*truncated"):
            open_checkpoint(path)


@pytest.mark.parametrize("extra", [b"\0", b"\0" * 1000, b"PK\x05\x06" + b"\0" * 18])
def test_bytes_after_the_end_are_refused(small: Path, extra: bytes) -> None:
    small.write_bytes(small.read_bytes() + extra)
    assert contents(small) is None


@pytest.mark.parametrize(
    ("write", "message"), [(write_pth, "1000 bytes after the end"), (write_safetensors, "1000 bytes after the last tensor")]
)
def test_a_file_that_is_too_long_is_not_called_truncated(tmp_path: Path, write: Callable, message: str) -> None:
    path = write(tmp_path / "a", random_state_dict("rwkv7", layers=1, width=32, head_size=8))
    path.write_bytes(path.read_bytes() + bytes(1000))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert "truncated" not in str(caught.value)


def test_a_gap_in_the_weights_is_found(tmp_path: Path) -> None:
    """A download with a page of zeros has the right length and a right directory."""
    path = write_pth(tmp_path / "a.pth", random_state_dict("rwkv7", layers=1, width=64))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 & -4096
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(content)
    checkpoint = open_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"a\.pth: the file was altered or damaged \(checksum of a/data/\d+\); download"):
        for name in checkpoint.tensors:
            assert np.isfinite(checkpoint.read(name)).all()


@pytest.mark.parametrize("write", [write_pth, write_safetensors], ids=["pth", "safetensors"])
def test_a_file_that_becomes_shorter_while_open_is_an_error_and_does_not_end_the_process(tmp_path: Path, write: Callable) -> None:
    path = tmp_path / "a.file"
    write(path, random_state_dict("rwkv7", layers=1, width=64))
    checkpoint = open_checkpoint(path)
    os.truncate(path, 5000)
    with pytest.raises(CheckpointError, match=r"a\.file: the file became shorter while it was read"):
        checkpoint.read("head.weight")


def test_a_thousand_tensors_of_one_storage_are_refused(tmp_path: Path) -> None:
    """A small file would need a thousand times its size in memory. A head tied to the embedding is allowed."""
    base = torch.zeros(64, 64)
    tied = write_pth(tmp_path / "tied.pth", {"emb.weight": base, "head.weight": base})
    assert contents(tied) is not None
    shared = write_pth(tmp_path / "shared.pth", {f"blocks.{i}.ffn.key.weight": base for i in range(1000)})
    with pytest.raises(CheckpointError, match=r"share storages may take at most twice the file's size; these take 16384000 bytes"):
        PthFile(shared)
