"""Attention over a quantised cache, all positions at once in torch, is the engine that reads the same tokens one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.kernels.kv_cache import KVCacheConfig, Static
from rwkvquant.kernels.kv_packing import dequantize_rows, quantize_rows
from rwkvquant.models import CheckpointSource
from rwkvquant.models.llama import block, embed, head
from rwkvquant.models.llama_cache import CachedAttention, TorchStatic, round_groups
from rwkvquant.runtime.session import load
from tests.llama import CONFIG, write_llama

TOKENS = [int(token) for token in np.random.default_rng(7).integers(0, CONFIG["vocab_size"], 45)]
RNG = np.random.default_rng(8)
STATICS = {
    (layer, name): Static(
        0.3 * RNG.standard_normal(32).astype(np.float32), RNG.uniform(0.5, 2, 32).astype(np.float32), float(RNG.uniform(0.8, 1))
    )
    for layer in range(2)
    for name in ("keys", "values")
}
SCHEMES = {
    "per token": KVCacheConfig(bits=4),
    "before RoPE": KVCacheConfig(bits=3, keys="before"),
    "small groups and a window": KVCacheConfig(bits=2, group=8, window=5),
    "rotated": KVCacheConfig(bits=3, rotate=True),
    "kivi": KVCacheConfig(bits=2, scheme="kivi", group=4, window=12),
    "two-dimensional": KVCacheConfig(bits=3, keys="before", static=STATICS),
    "float16": KVCacheConfig(bits=16),
    "exact": KVCacheConfig(bits=32),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


def torch_static(static: Static | None) -> TorchStatic | None:
    if static is None:
        return None
    assert static.shift is not None and static.smooth is not None
    return TorchStatic(torch.from_numpy(static.shift), torch.from_numpy(static.smooth), torch.tensor(static.clip))


def in_torch(folder: Path, config: KVCacheConfig, past_only: bool = True) -> np.ndarray:
    source = CheckpointSource(open_checkpoint(folder))
    outer = source.globals()
    x = embed(outer, torch.tensor([TOKENS]))
    for layer in range(2):
        keys, values = (torch_static(config.static.get((layer, name))) for name in ("keys", "values"))
        x = block(source.block(layer), x, None, None, attend=CachedAttention(config, keys, values, past_only))[0]
    return head(outer, x)[0].numpy()


@pytest.mark.parametrize("name", SCHEMES)
def test_all_positions_at_once_are_the_engine_token_by_token(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkvquant.models.llama_cache.QUERIES", 16)  # several products of queries
    model, state, rows = load(folder, tokenizer="bytes", activations="float32", kv_cache=SCHEMES[name]), None, []
    for token in TOKENS:
        row, state = model.forward([token], state)
        rows.append(row)
    expected, found = np.stack(rows), in_torch(folder, SCHEMES[name])
    # A value between two codes may go to either, and then later positions differ a little: nearly all are equal.
    error = np.abs(found - expected).max(axis=1)
    limit = 1e-2 if name == "float16" else 1e-4  # the engine's float16 has products in another order before it
    assert np.median(error) < limit and error[:8].max() < 1e-2 and error.max() < 0.3, error


def test_without_past_only_the_present_token_is_rounded_too(folder: Path) -> None:
    config = KVCacheConfig(bits=2)
    exact, past, present = in_torch(folder, KVCacheConfig(bits=32)), in_torch(folder, config), in_torch(folder, config, False)
    assert np.abs(past[0] - exact[0]).max() < 1e-5 < np.abs(present[0] - exact[0]).max()
    assert np.square(past - exact).mean() < np.square(present - exact).mean()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_groups_are_rounded_as_they_are_packed(bits: int) -> None:
    x = RNG.standard_normal((50, 32)).astype(np.float32)
    packed = dequantize_rows(*quantize_rows(x, bits, 16, 0.9), 16)
    found = round_groups(torch.from_numpy(x).view(50, 2, 16), bits, torch.tensor(0.9)).view(50, 32).numpy()
    assert np.mean(np.abs(found - packed) > 1e-5) < 2e-3


def test_a_clip_and_a_shift_have_gradients() -> None:
    x, clip = torch.randn(20, 4, 16), torch.tensor(0.8, requires_grad=True)
    (round_groups(x, 3, clip) - x).square().sum().backward()
    assert clip.grad is not None and abs(clip.grad.item()) > 0.1
