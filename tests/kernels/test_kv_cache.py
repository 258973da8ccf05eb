"""A packed cache gives back what the definition of its codes says, in as many bytes as that counts, whatever the pieces it was added in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rwkvquant.errors import ConfigError
from rwkvquant.kernels.kv_cache import KVCache, KVCacheConfig, Static, hadamard
from rwkvquant.kernels.kv_packing import of_planes, quantize_rows, to_planes
from rwkvquant.kernels.llama import rotate

HEADS, SIZE, TOKENS = 2, 16, 150
CHANNELS = HEADS * SIZE
FREQUENCIES = np.tile(100.0 ** (-np.arange(SIZE // 2) / (SIZE // 2)), 2).astype(np.float32)
RNG = np.random.default_rng(3)
K, V = (RNG.standard_normal((TOKENS, HEADS, SIZE)).astype(np.float32) * RNG.uniform(0.1, 4, (HEADS, SIZE)).astype(np.float32) for _ in "kv")
STATIC = Static(RNG.standard_normal(CHANNELS).astype(np.float32), RNG.uniform(0.5, 2, CHANNELS).astype(np.float32), 0.9)


def filled(config: KVCacheConfig, pieces: int) -> KVCache:
    cache = KVCache(config, 2, HEADS, SIZE)
    for start in range(0, TOKENS, pieces):
        k, v = K[start : start + pieces], V[start : start + pieces]
        for layer in range(2):
            cache.append(layer, k, v, lambda x, start=start: rotate(x, FREQUENCIES, start))  # type: ignore[misc]
    return cache


def past(cache: KVCache, layer: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return cache.past(layer, lambda x: rotate(x, FREQUENCIES))


def rounded(x: np.ndarray, bits: int, clip: float = 1.0) -> np.ndarray:
    """x, one group: the definition in loops and float64, with step and low as float16."""
    least, most = float(x.min()), float(x.max())
    half = clip * (most - least) / 2
    low, step = np.float16((least + most) / 2 - half), np.float16(2 * half / (2**bits - 1))
    codes = [min(max(round((value - float(low)) / float(step)), 0), 2**bits - 1) for value in x.astype(np.float64)]
    return np.array([float(low) + code * float(step) for code in codes])


def per_token(x: np.ndarray, bits: int, group: int, static: Static | None = None) -> np.ndarray:
    static = static or Static(np.zeros(CHANNELS), np.ones(CHANNELS))
    flat = (x.reshape(len(x), -1) - static.shift) / static.smooth
    groups = [[rounded(part, bits, static.clip) for part in row.reshape(-1, group)] for row in flat]
    return (np.array(groups).reshape(len(x), -1) * static.smooth + static.shift).reshape(x.shape)


def near(found: np.ndarray, expected: np.ndarray, step: float) -> None:
    """Equal up to float32; a value between two codes may be rounded to either, so one in a thousand may be one step away."""
    error = np.abs(found - expected)
    assert np.mean(error > 1e-4) < 2e-3 and error.max() < step


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [8, 16, 32])
def test_per_token_is_its_definition(bits: int, group: int) -> None:
    k, v = past(filled(KVCacheConfig(bits=bits, group=group), 7))
    near(k, per_token(rotate(K, FREQUENCIES), bits, group), 20 / 2**bits)
    near(v, per_token(V, bits, group), 20 / 2**bits)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_shift_smoothing_and_clip_come_before_the_codes(bits: int) -> None:
    config = KVCacheConfig(bits=bits, keys="before", static={(1, "keys"): STATIC, (1, "values"): STATIC})
    k, v = past(filled(config, 50))
    near(v, per_token(V, bits, SIZE, STATIC), 40 / 2**bits)
    near(k, rotate(per_token(K, bits, SIZE, STATIC).astype(np.float32), FREQUENCIES), 60 / 2**bits)
    near(past(filled(config, 50), 0)[1], per_token(V, bits, SIZE), 20 / 2**bits)


@pytest.mark.parametrize("bits", [2, 4])
def test_kivi_has_keys_by_channel_in_groups_of_tokens_and_a_window(bits: int) -> None:
    k, v = past(filled(KVCacheConfig(bits=bits, scheme="kivi", group=8, window=32), 1))
    turned = rotate(K, FREQUENCIES).reshape(TOKENS, -1)
    expected = turned.astype(np.float16).astype(np.float64)
    for start in range(0, 128, 8):  # 150 tokens: four windows of 32 have gathered, 22 keys wait
        for channel in range(CHANNELS):
            expected[start : start + 8, channel] = rounded(expected[start : start + 8, channel], bits)
    near(k, expected.reshape(K.shape), 20 / 2**bits)
    packed = TOKENS - 32  # values: always the last 32 wait
    half = V.astype(np.float16).astype(np.float64)
    near(v, np.concatenate([per_token(half[:packed], bits, 8), half[packed:]]), 20 / 2**bits)


@pytest.mark.parametrize("config", [KVCacheConfig(bits=3, window=9), KVCacheConfig(bits=2, scheme="kivi", group=8, window=16)])
def test_the_pieces_in_which_tokens_come_do_not_matter(config: KVCacheConfig) -> None:
    for one, other in zip(past(filled(config, 1)), past(filled(config, TOKENS)), strict=True):
        assert np.array_equal(one, other)


def test_rotation_is_undone_and_helps_an_outlier() -> None:
    H = hadamard(SIZE)
    assert np.allclose(H @ H, np.eye(SIZE), atol=1e-6)
    wild = V.copy()
    wild[:, :, 3] *= 50
    errors = []
    for rotate_heads in (False, True):
        cache = KVCache(KVCacheConfig(bits=4, rotate=rotate_heads), 1, HEADS, SIZE)
        cache.append(0, K, wild, lambda x: x)
        others = np.delete(cache.past(0, lambda x: x)[1] - wild, 3, axis=2)
        errors.append(np.square(others).mean())
    assert errors[1] < errors[0] and errors[0] > 0.1


@pytest.mark.parametrize("bits", [16, 32])
def test_without_codes_it_is_a_float(bits: int) -> None:
    k, v = past(filled(KVCacheConfig(bits=bits, keys="before"), 11))
    kind = np.float16 if bits == 16 else np.float32
    assert np.array_equal(v, V.astype(kind).astype(np.float32))
    assert np.array_equal(k, rotate(K.astype(kind).astype(np.float32), FREQUENCIES))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_memory_is_the_counted_one_and_old_rows_do_not_move(bits: int) -> None:
    config = KVCacheConfig(bits=bits)
    cache = KVCache(config, 1, HEADS, SIZE)
    sizes, chunks = [], []
    for token in range(128):
        cache.append(0, K[token : token + 1], V[token : token + 1], lambda x: x)
        sizes.append(cache.nbytes)
        chunks.append(cache._kept[0][0]._planes._chunks[0].ctypes.data)
    counted = 2 * CHANNELS * config.bits_of_a_number(SIZE) / 8
    assert config.bits_of_a_number(SIZE) == bits + 2
    assert sizes[63] == 64 * counted and sizes[127] == 128 * counted and len(set(sizes)) == 2  # room for 64 tokens at a time
    assert len(set(chunks)) == 1


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_codes_survive_their_bit_planes(bits: int) -> None:
    codes = RNG.integers(0, 2**bits, (5, 24)).astype(np.uint8)
    planes = to_planes(codes, bits)
    assert planes.shape == (5, bits, 3) and np.array_equal(of_planes(planes), codes)


def test_equal_numbers_and_huge_ones_stay_finite() -> None:
    for value in (0.0, 3.5, -1e30, 1e30):
        codes, low, step = quantize_rows(np.full((2, 16), value, np.float32), 4, 16)
        assert np.isfinite(low).all() and np.isfinite(step).all() and (step > 0).all() and codes.max() <= 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits of a cache must be one of 2, 3, 4, 8, 16, 32; got 5"),
        ({"scheme": "rtn"}, "scheme of a cache must be one of token, kivi; got 'rtn'"),
        ({"group": -1}, "group of a cache must be a whole number of at least 0; got -1"),
        ({"scheme": "kivi", "group": 32, "window": 100}, "window must be a multiple of its group"),
        ({"scheme": "kivi", "group": 8, "window": 8, "static": {(0, "keys"): Static()}}, "clip is for the scheme token"),
        ({"group": 12}, r"got a group of 12 for 32 channels \(2 heads of 16\)\. Try group=16"),
    ],
)
def test_a_cache_that_cannot_be_is_refused_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KVCache(KVCacheConfig(**options), 1, HEADS, SIZE)


def test_rotation_needs_a_power_of_two() -> None:
    with pytest.raises(ConfigError, match="rotate needs heads whose size is a power of two; got 24"):
        KVCache(KVCacheConfig(rotate=True), 1, 2, 24)
