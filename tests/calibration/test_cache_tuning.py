"""Tuning a cache over the next blocks lowers the loss it is asked to lower, and changes only what it may change."""

from __future__ import annotations

import pytest
import torch

from rwkvquant.calibration.cache_tuning import Statics, Tuning, measured_statics, tune
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.kernels.kv_cache import KVCacheConfig
from rwkvquant.models import CheckpointSource
from rwkvquant.models.llama import block, embed
from rwkvquant.models.llama_cache import CachedAttention
from tests.llama import write_llama

CONFIG = KVCacheConfig(bits=2, keys="before")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
    source = CheckpointSource(open_checkpoint(write_llama(tmp_path_factory.mktemp("llama"), num_hidden_layers=3)))
    tokens = torch.randint(0, 256, (4, 24), generator=torch.Generator().manual_seed(1))
    return [source.block(layer) for layer in range(3)], embed(source.globals(), tokens)


@torch.no_grad()
def error(blocks: list[dict[str, torch.Tensor]], x: torch.Tensor, statics: Statics) -> float:
    exact, found = x, x
    for weights, (keys, values) in zip(blocks, statics, strict=True):
        exact = block(weights, exact, None, None)[0]
        found = block(weights, found, None, None, attend=CachedAttention(CONFIG, keys, values))[0]
    return (found - exact).abs().mean().item()


def test_tuning_lowers_the_error_of_the_stream(model: tuple[list[dict[str, torch.Tensor]], torch.Tensor]) -> None:
    blocks, x = model
    start = measured_statics(blocks, x, "before")
    tuned = tune(blocks, x, CONFIG, start, Tuning(steps=25, rows=4))
    assert error(blocks, x, tuned) < 0.95 * error(blocks, x, start)
    assert all(0 < static.clip < 1 and (static.smooth > 0).all() for pair in tuned for static in pair)
    assert not any(static.shift.requires_grad for pair in tuned for static in pair)


def test_only_the_named_parts_change(model: tuple[list[dict[str, torch.Tensor]], torch.Tensor]) -> None:
    blocks, x = model
    start = measured_statics(blocks, x, "before", ("smooth",))
    tuned = tune(blocks, x, CONFIG, start, Tuning(steps=2, parts=("smooth",)))
    for before, after in zip(sum(start, ()), sum(tuned, ()), strict=True):
        assert torch.equal(before.shift, torch.zeros(32)) and torch.equal(after.shift, before.shift) and after.clip == 1
        assert not torch.equal(after.smooth, before.smooth)


def test_measured_shift_is_the_mean_of_each_channel(model: tuple[list[dict[str, torch.Tensor]], torch.Tensor]) -> None:
    blocks, x = model
    (keys, values), *_ = measured_statics(blocks, x, "before")
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * blocks[0]["input_layernorm.weight"]
    for static, name in ((keys, "k"), (values, "v")):
        expected = (normed @ blocks[0][f"self_attn.{name}_proj.weight"].T).mean((0, 1))
        assert torch.allclose(static.shift, expected, atol=1e-5)
        assert abs(static.smooth.log().mean()) < 1e-5
