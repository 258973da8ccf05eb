"""The matrices of a state between tokens, in 12 bits a value: codes of 8 bits, and what they leave in 4. docs/methods/state.md says why.

    d_i = max_j |S_ij| / 2032        Y_ij = round(S_ij / d_i)  in -2032..2032        S_ij is about d_i Y_ij, within d_i / 2
    Y = 16 Q + E        Q  in -127..127, one byte        E  in -8..7, half a byte

A row of N values (an even number) is 3 N / 2 + 4 bytes: Q of each value; E + 8, that of value j in the low half of byte j and that of value
j + N / 2 in its high half; and d, a float32. Rows whose largest value is below 1e-30 are 0.

The NumPy version of native/state_rows.cpp, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels.resting import is_matrix
from rwkvquant.kernels.state import RecurrentState, StateArray

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


def in_rows(state: RecurrentState) -> RecurrentState:
    """The same state with its matrices as rows, (..., N, 3 N / 2 + 4) uint8 for (..., N, N)."""
    return _matrices(state, lambda values: values if is_rows(values) else pack_rows(values))


def in_full(state: RecurrentState) -> RecurrentState:
    """The same state with its matrices in float32."""
    return _matrices(state, lambda values: unpack_rows(values) if is_rows(values) else values)


def is_rows(values: NDArray[Any]) -> bool:
    return values.dtype == np.uint8


def _matrices(state: RecurrentState, change: Callable[[NDArray[Any]], NDArray[Any]]) -> RecurrentState:
    def changed(array: StateArray, values: NDArray[Any]) -> NDArray[Any]:
        return change(values) if is_matrix(array) else values

    return RecurrentState(state.spec, tuple(changed(array, values) for array, values in zip(state.spec, state.arrays, strict=True)))
