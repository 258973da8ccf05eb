"""Rows of a state in 8 bits a value: right on average, within a step, packed again to the same bytes, and the same bytes natively."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.kernels.state_rotated import BITS, MOST, block, mixed, pack_rows, row_bytes, seed_of, summed, unpack_rows
from tests.kernels.guarded import GUARD, assert_same_bits, body, on_every_body
from tests.kernels.test_state_rows import SIZES, matrix


def codes_and_steps(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows[..., :-4].view(np.int8).astype(int), np.ascontiguousarray(rows[..., -4:]).view("<f4").astype(float)


@pytest.mark.parametrize("size", SIZES)
def test_each_rotated_value_is_within_a_step_and_zeros_stay_zeros(size: int) -> None:
    S = matrix(size)
    rows = pack_rows(S, 7)
    assert rows.dtype == np.uint8 and rows.shape == (size, row_bytes(size)) == (size, size + 4) and BITS == 8
    Z, d = codes_and_steps(rows)
    T = summed(S).astype(float)
    kept = np.abs(T).max(-1) >= 1e-30
    assert not kept[0] and not kept[-1] and not rows[~kept].any()
    assert (np.abs(T - block(size) * d * Z) < block(size) * d)[kept].all()
    assert (np.abs(Z).max(-1) == MOST)[kept].all()
    assert (d[kept, 0] <= 1.001 * np.abs(T).max(-1)[kept] / MOST / block(size)).all()


@pytest.mark.parametrize("size", SIZES)
def test_rows_are_rotated_by_the_walsh_hadamard_matrix_of_at_most_64_keys(size: int) -> None:
    S = np.random.default_rng(size).integers(-1000, 1000, (size, size)).astype(np.float32)  # sums of whole numbers are exact
    H = np.ones((1, 1))
    while len(H) < block(size):
        H = np.kron([[1, 1], [1, -1]], H)
    assert len(H) == min(size & -size, 64)
    assert np.array_equal(summed(S), (S.reshape(size, -1, len(H)) @ H).reshape(size, size))
    assert np.array_equal(summed(summed(np.eye(size, dtype=np.float32))), block(size) * np.eye(size))


def test_the_mean_over_seeds_is_the_state() -> None:
    """Within five standard deviations of each mean; rounding to the nearest is 50 off."""
    S = np.random.default_rng(3).standard_normal((16, 64)).astype(np.float32)
    seeds = np.random.default_rng(4).integers(0, 1 << 32, 4000, dtype=np.uint32)
    packed = pack_rows(np.broadcast_to(S, (len(seeds), *S.shape)), seeds)
    Z, d = codes_and_steps(packed)
    found, T = 64 * d * Z, summed(S).astype(float)
    step = 64 * d.mean(0)
    away = (found.mean(0) - T) / step * 2 * len(seeds) ** 0.5  # in the largest standard deviation, of a value half way
    assert np.abs(away).max() < 5 and abs(away.mean()) < 5 / away.size**0.5
    of_S = (unpack_rows(packed).astype(float).mean(0) - S) / (step / 8)
    assert np.abs(of_S).max() < 5 / len(seeds) ** 0.5 and np.abs(found - T).std() / step.mean() > 0.2


def test_values_of_a_row_are_rounded_independently() -> None:
    """No two columns are rounded up together more often than by chance."""
    S = np.random.default_rng(5).standard_normal((4, 64)).astype(np.float32)
    seeds = np.arange(4000, dtype=np.uint32)
    Z, _ = codes_and_steps(pack_rows(np.broadcast_to(S, (len(seeds), *S.shape)), seeds))
    errors = Z.reshape(len(seeds), -1).astype(float)
    errors = errors[:, errors.std(0) > 0.1]
    together = np.corrcoef(errors.T) - np.eye(errors.shape[1])
    assert errors.shape[1] > 200 and np.abs(together).max() < 6 / len(seeds) ** 0.5


def test_a_slow_decay_goes_on() -> None:
    """Half of the keys keep 0.999 of their values in each token: a tenth of a step or less, which rounding to the nearest puts back."""
    start = np.random.default_rng(6).standard_normal((64, 64)).astype(np.float32)
    w = np.where(np.arange(64) % 2, np.float32(0.999), np.float32(1))
    rows = pack_rows(start)
    for _ in range(1000):
        rows = pack_rows(unpack_rows(rows) * w, seed_of(rows))
    left = (unpack_rows(rows) * start).sum(0) / (start * start).sum(0)
    assert abs(left[1::2].mean() - 0.999**1000) < 0.03 and abs(left[::2].mean() - 1) < 0.03


@pytest.mark.parametrize("size", SIZES)
def test_rows_that_were_unpacked_are_packed_to_the_same_bytes_by_any_seed(size: int) -> None:
    for seed in range(20):
        rows = pack_rows(matrix(size) * np.float32(1 + seed / 7), seed)
        assert np.array_equal(pack_rows(unpack_rows(rows), 1000 + seed), rows)


def test_each_byte_of_a_head_counts_for_its_seed_and_each_head_has_its_own() -> None:
    rows = pack_rows(matrix(64))
    own = seed_of(rows)
    changed = np.repeat(rows[None], rows.size, 0).reshape(rows.size, -1)
    changed[np.arange(rows.size), np.arange(rows.size)] ^= 1
    seeds = seed_of(changed.reshape(-1, *rows.shape))
    assert seeds.shape == (rows.size,) and not (seeds == own).any() and len(set(seeds.tolist())) > 0.99 * rows.size
    assert np.array_equal(seed_of(np.stack([rows, rows[::-1]])), [seed_of(rows), seed_of(rows[::-1])])


def test_bits_are_mixed_one_to_one() -> None:
    """By its inverse: the steps backwards, with the inverses of the two odd factors modulo 2^32."""
    x = np.random.default_rng(0).integers(0, 1 << 32, 10000, dtype=np.uint32)
    y = mixed(x)
    y = (y ^ y >> 15 ^ y >> 30) * np.uint32(pow(0xD35A2D97, -1, 1 << 32))
    y = (y ^ y >> 15 ^ y >> 30) * np.uint32(pow(0x21F0AAAD, -1, 1 << 32))
    assert np.array_equal(y ^ y >> 16, x)


@pytest.mark.parametrize("size", SIZES)
def test_every_body_packs_and_unpacks_the_same_bytes(size: int) -> None:
    S = matrix(size)
    for seed in (0, 12345, 0xFFFFFFFF):
        wanted = pack_rows(S, seed)
        for isa in _native.available_isas():
            memory = np.full(wanted.size + 2 * GUARD, 77, np.uint8)
            with body(isa):
                _native.pack_rotated(S.ravel(), size, seed, memory[GUARD : GUARD + wanted.size])
                assert _native.seed_of_rows(wanted.ravel(), size) == seed_of(wanted), isa
            assert np.array_equal(memory[GUARD : GUARD + wanted.size], wanted.ravel()), isa
            assert (memory[:GUARD] == 77).all() and (memory[GUARD + wanted.size :] == 77).all(), isa
        results = on_every_body(lambda out, rows=wanted: _native.unpack_rotated(rows.ravel(), size, out), size * size)
        assert_same_bits(results, unpack_rows(wanted).ravel())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(value: float) -> None:
    """A broken state gives broken numbers, and no fault."""
    S = matrix(64)
    wanted = pack_rows(S, 5)
    S[5, 7] = value
    rows = np.empty(64 * row_bytes(64), np.uint8)
    for isa in _native.available_isas():
        with body(isa):
            _native.pack_rotated(S.ravel(), 64, 5, rows)
        others = np.arange(64) != 5
        assert np.array_equal(rows.reshape(64, -1)[others], wanted[others]), isa


def test_wrong_sizes_are_refused() -> None:
    S, rows = np.zeros(16, np.float32), np.zeros(4 * row_bytes(4), np.uint8)
    for call in (
        lambda: _native.pack_rotated(S, 5, 0, rows),
        lambda: _native.pack_rotated(S[:-1], 4, 0, rows),
        lambda: _native.pack_rotated(S, 4, 0, rows[:-1]),
        lambda: _native.unpack_rotated(rows[:-1], 4, S),
        lambda: _native.unpack_rotated(rows, 4, S[:-1]),
        lambda: _native.unpack_rotated(rows, 3, S),
        lambda: _native.seed_of_rows(rows[:-1], 4),
        lambda: _native.seed_of_rows(rows, 3),
    ):
        with pytest.raises(ValueError, match=r"(pack_rotated|seed_of_rows)\]"):
            call()
