"""The matrices of a state between tokens, in 12 bits a value: codes of 8 bits, and what they leave in 4. docs/methods/state.md says why.

    d_i = max_j |S_ij| / 2032        Y_ij = round(S_ij / d_i)  in -2032..2032        S_ij is about d_i Y_ij, within d_i / 2
    Y = 16 Q + E        Q  in -127..127, one byte        E  in -8..7, half a byte

A row of N values (an even number) is 3 N / 2 + 4 bytes: Q of each value; E + 8, that of value j in the low half of byte j and that of value
j + N / 2 in its high half; and d, a float32. Rows whose largest value is below 1e-30 are 0.

The NumPy version of native/state_rows.cpp, to the bit. `in_rows` and `in_full` are for whole states, also in the 8 bits of
state_rotated.py.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels import state_rotated
from rwkvquant.kernels.resting import is_matrix
from rwkvquant.kernels.state import RecurrentState

Array = NDArray[np.float32]
Rows = NDArray[np.uint8]

BITS = 12
MOST = 16 * 127
NOTHING = np.float32(1e-30)


def row_bytes(size: int) -> int:
    """Of a row of `size` values."""
    return size + size // 2 + 4


def pack_rows(S: Array) -> Rows:
    """S (..., N) -> (..., 3 N / 2 + 4)."""
    half = S.shape[-1] // 2
    largest = np.abs(S).max(-1, keepdims=True)
    nothing = largest < NOTHING
    inverse = np.where(nothing, np.float32(0), np.float32(MOST) / np.where(nothing, np.float32(1), largest))
    step = np.where(nothing, np.float32(0), largest / np.float32(MOST)).astype("<f4")
    raised = np.rint(S * inverse).astype(np.int32) + 8  # 16 Q + (E + 8)
    low, high = raised[..., :half] & 15, raised[..., half:] & 15
    codes, residuals = (raised >> 4).astype(np.int8).view(np.uint8), (low | high << 4).astype(np.uint8)
    return np.concatenate([codes, residuals, step.view(np.uint8)], axis=-1)


def unpack_rows(rows: Rows) -> Array:
    """What `pack_rows` made -> S (..., N)."""
    size = (rows.shape[-1] - 4) * 2 // 3
    Q, residuals = rows[..., :size].view(np.int8).astype(np.int32), rows[..., size : size + size // 2].astype(np.int32)
    E = np.concatenate([residuals & 15, residuals >> 4], axis=-1) - 8
    step = np.ascontiguousarray(rows[..., -4:]).view("<f4").astype(np.float32)
    return (16 * Q + E).astype(np.float32) * step


def in_rows(state: RecurrentState, bits: int = BITS, before: RecurrentState | None = None) -> RecurrentState:
    """The same state with its matrices as rows of bytes, in 12 or 8 bits a value: (..., N, bytes) uint8 for (..., N, N).

    `before`: the rows before the token, which give the random numbers of 8 bits; None: 0 gives them, for a state from elsewhere.
    """
    seeds = [state_rotated.seed_of(values) if is_rows(values) else 0 for values in (before or state).arrays]

    def packed(values: NDArray[Any], seed: NDArray[np.uint32] | int) -> NDArray[Any]:
        if is_rows(values):
            return values
        return pack_rows(values) if bits == BITS else state_rotated.pack_rows(values, seed)

    parts = zip(state.spec, state.arrays, seeds, strict=True)
    return RecurrentState(state.spec, tuple(packed(values, seed) if is_matrix(array) else values for array, values, seed in parts))


def in_full(state: RecurrentState) -> RecurrentState:
    """The same state with its matrices in float32."""
    unpack = {BITS: unpack_rows, state_rotated.BITS: state_rotated.unpack_rows}
    return state.map(lambda values: unpack[bits_of(values)](values) if is_rows(values) else values)


def is_rows(values: NDArray[Any]) -> TypeGuard[Rows]:
    return values.dtype == np.uint8


def bits_of(rows: Rows) -> int:
    """12 or 8, by the length of rows (..., N, bytes)."""
    return BITS if rows.shape[-1] == row_bytes(rows.shape[-2]) else state_rotated.BITS
