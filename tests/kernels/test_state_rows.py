"""Rows of a state in 12 bits a value: within half a step of 1/2032 of the largest, and native code writes the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.kernels.state_rows import BITS, MOST, pack_rows, row_bytes, unpack_rows
from tests.kernels.guarded import GUARD, assert_same_bits, body, on_every_body

SIZES = [2, 4, 8, 16, 24, 32, 48, 64, 80, 128]


def matrix(size: int) -> np.ndarray:
    random = np.random.default_rng(size)
    S = random.standard_normal((size, size)) * np.exp(3 * random.standard_normal(size))
    S[size // 2] *= 1e30
    S[-1] = 1e-32 * random.standard_normal(size)  # below what is kept
    S[0] = 0
    return S.astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_each_value_is_within_half_a_step_and_zeros_stay_zeros(size: int) -> None:
    S = matrix(size)
    rows = pack_rows(S)
    assert rows.dtype == np.uint8 and rows.shape == (size, row_bytes(size)) and BITS == 12
    largest = np.abs(S).max(-1, keepdims=True)
    again = unpack_rows(rows)
    kept = largest[:, 0] >= 1e-30
    assert (np.abs(again - S) <= largest / MOST / 2 * 1.001)[kept].all()
    assert not again[~kept].any() and not kept[0] and not kept[-1]


def test_every_code_comes_back() -> None:
    """-2032 and 2032 in each row, so that a step is 1."""
    codes = np.arange(-MOST, MOST + 1)
    codes = np.concatenate([codes, np.zeros(-len(codes) % 62, int)]).reshape(-1, 62)
    S = np.concatenate([codes, np.full((len(codes), 1), MOST), np.full((len(codes), 1), -MOST)], axis=1).astype(np.float32)
    assert np.array_equal(unpack_rows(pack_rows(S)), S)


def test_a_row_that_was_packed_is_packed_to_the_same_bytes() -> None:
    rows = pack_rows(matrix(64))
    assert np.array_equal(pack_rows(unpack_rows(rows)), rows)


@pytest.mark.parametrize("size", SIZES)
def test_every_body_packs_and_unpacks_the_same_bytes(size: int) -> None:
    S = matrix(size)
    wanted = pack_rows(S)
    for isa in _native.available_isas():
        memory = np.full(wanted.size + 2 * GUARD, 77, np.uint8)
        with body(isa):
            _native.pack_state(S.ravel(), size, memory[GUARD : GUARD + wanted.size])
        assert np.array_equal(memory[GUARD : GUARD + wanted.size], wanted.ravel()), isa
        assert (memory[:GUARD] == 77).all() and (memory[GUARD + wanted.size :] == 77).all(), isa
    results = on_every_body(lambda out: _native.unpack_state(wanted.ravel(), size, out), size * size)
    assert_same_bits(results, unpack_rows(wanted).ravel())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(value: float) -> None:
    """A broken state gives broken numbers, and no fault."""
    S = matrix(64)
    S[5, 7] = value
    rows = np.empty(64 * row_bytes(64), np.uint8)
    for isa in _native.available_isas():
        with body(isa):
            _native.pack_state(S.ravel(), 64, rows)
        others = np.arange(64) != 5
        assert np.array_equal(rows.reshape(64, -1)[others], pack_rows(S[others])), isa


def test_wrong_sizes_are_refused() -> None:
    S, rows = np.zeros(16, np.float32), np.zeros(4 * row_bytes(4), np.uint8)
    for call in (
        lambda: _native.pack_state(S, 5, rows),
        lambda: _native.pack_state(S[:-1], 4, rows),
        lambda: _native.pack_state(S, 4, rows[:-1]),
        lambda: _native.unpack_state(rows[:-1], 4, S),
        lambda: _native.unpack_state(rows, 4, S[:-1]),
        lambda: _native.unpack_state(rows, 3, S),
    ):
        with pytest.raises(ValueError, match=r"pack_state\]"):
            call()
