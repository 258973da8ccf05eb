"""A state at rest, in 8 or 4 bits a value. docs/methods/state.md has the derivation and the measurements.

    S  (N, N) one head, [value, key]    p, q  (N,) its largest rank-one part    T  (N, N) the rest, rotated    Z  (N, N) whole numbers

    S = c p q^T + T R                                 p, q whole numbers in -127..127, c float32                                Eq. (1)
    T = (S - c p q^T) R                               R  Walsh-Hadamard over the keys of a row: R R = 1                         Eq. (2)
    d_i = max_j |T_ij| / n    n = 2^(bits - 1) - 1    one scale for each row, bfloat16, rounded up                              Eq. (3)
    Z_ij = round(T_ij / d_i)                          so |T_ij - d_i Z_ij| <= d_i / 2                                           Eq. (4)

The token-shift vectors are 3 % of a state. They are rounded to 8 bits with a scale for every 64 values, at any `bits`.

Every product and sum here is NumPy's own, without BLAS, so the bytes do not depend on threads. Gives up: the optimum. p and q come from a
few rounds of the power iteration, and the scales are not searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels.bfloat import widen_bfloat
from rwkvquant.kernels.state import StateArray

Array = NDArray[np.float32]
Parts = dict[str, NDArray[Any]]

BITS = (8, 4)
GROUP = 64  # values of a vector that share a scale
ROUNDS = 4  # of the power iteration; 8 rounds changed no measured digit
MOST = 127  # of p, q and the codes of 8 bits
LARGEST_STEP = 1e33  # of d and c in files. 127^2 of it, and 64 of 127 of it, are below the largest float32


def is_matrix(array: StateArray) -> bool:
    """Whether the array is a square matrix for each head, as `wkv` is. The others are vectors along their last axis."""
    return len(array.axes) > 1 and array.axes[-1] == array.axes[-2]


def pack_array(array: StateArray, values: Array, bits: int) -> Parts:
    """One array of a state -> its parts by name, as `parts_of` lists them. The values are finite."""
    return pack_matrices(values, bits) if is_matrix(array) else pack_vectors(values)


def unpack_array(array: StateArray, parts: Mapping[str, NDArray[Any]], bits: int) -> Array:
    """What `pack_array` made -> the array, float32."""
    return unpack_matrices(parts, bits) if is_matrix(array) else unpack_vectors(parts)


def parts_of(array: StateArray, shape: tuple[int, ...], bits: int) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    """The parts of an array of this shape: name -> type, shape."""
    if not is_matrix(array):
        return {"codes": (np.int8, shape), "scales": (np.uint16, (*shape[:-1], -(-shape[-1] // GROUP)))}
    codes = (np.int8, shape) if bits == 8 else (np.uint8, (*shape[:-1], (shape[-1] + 1) // 2))
    rows = shape[:-1]
    return {
        "codes": codes,
        "scales": (np.uint16, rows),
        "left": (np.int8, rows),
        "right": (np.int8, rows),
        "weight": (np.float32, shape[:-2]),
    }


def part_names(array: StateArray) -> tuple[str, ...]:
    return ("codes", "scales", "left", "right", "weight") if is_matrix(array) else ("codes", "scales")


def shape_from(array: StateArray, parts: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
    """The shape of the array that was packed; `parts_of` then says whether all parts fit it."""
    return (*parts["left"].shape, parts["left"].shape[-1]) if is_matrix(array) else parts["codes"].shape


def in_range(array: StateArray, parts: Mapping[str, NDArray[Any]], bits: int) -> bool:
    """Whether parts of the right shapes are such as `pack_array` makes: codes in their range, scales finite and not negative, and so
    small that every value is finite."""
    most = MOST if bits == 8 or not is_matrix(array) else (1 << (bits - 1)) - 1
    codes = one_in_a_byte(parts["codes"], 2 * parts["codes"].shape[-1]) if parts["codes"].dtype == np.uint8 else parts["codes"]
    whole = [codes, *(parts[name] for name in ("left", "right") if name in parts)]
    steps = [widen_bfloat(parts["scales"]), *(parts[name] for name in ("weight",) if name in parts)]
    return bool(
        (codes >= -most).all()
        and all((values >= -MOST).all() for values in whole)
        and all(((step >= 0) & (step <= LARGEST_STEP)).all() for step in steps)
    )


def pack_matrices(S: Array, bits: int) -> Parts:
    """S (..., N, N) -> codes (..., N, N) int8 or two in a byte, scales (..., N) bfloat16, left and right (..., N), weight (...)."""
    left, right, weight = rank_one(S)
    T = rotated(S - outer(left, right, weight))  # Eq. (2)
    Z, scales = round_rows(T, (1 << (bits - 1)) - 1)
    return {"codes": Z if bits == 8 else two_in_a_byte(Z), "scales": scales, "left": left, "right": right, "weight": weight}


def unpack_matrices(parts: Mapping[str, NDArray[Any]], bits: int) -> Array:
    codes, size = parts["codes"], parts["left"].shape[-1]
    Z = codes if bits == 8 else one_in_a_byte(codes, size)
    T = Z.astype(np.float32) * widen_bfloat(parts["scales"])[..., None]
    return outer(parts["left"], parts["right"], parts["weight"]) + rotated(T)  # Eq. (1)


def pack_vectors(x: Array) -> Parts:
    """x (..., C) -> codes (..., C) int8, scales (..., groups of 64 values) bfloat16. The last group may be shorter."""
    groups = -(-x.shape[-1] // GROUP)
    padded = np.zeros((*x.shape[:-1], groups * GROUP), np.float32)
    padded[..., : x.shape[-1]] = x
    Z, scales = round_rows(padded.reshape(*x.shape[:-1], groups, GROUP), MOST)
    return {"codes": np.ascontiguousarray(Z.reshape(padded.shape)[..., : x.shape[-1]]), "scales": scales}


def unpack_vectors(parts: Mapping[str, NDArray[Any]]) -> Array:
    codes = parts["codes"]
    return codes.astype(np.float32) * np.repeat(widen_bfloat(parts["scales"]), GROUP, axis=-1)[..., : codes.shape[-1]]


def round_rows(T: Array, n: int) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
    """T (..., row) -> codes in -n..n, and the scale of each row (...), rounded up so that the largest value is not cut off."""
    scales = up_to_bfloat(np.abs(T).max(-1, initial=0) / np.float32(n))  # Eq. (3)
    d = divisor(widen_bfloat(scales))
    return np.clip(np.rint(T / d[..., None]), -n, n).astype(np.int8), scales  # Eq. (4)


def up_to_bfloat(values: Array) -> NDArray[np.uint16]:
    """The smallest bfloat16 that is not less, of values that are not negative."""
    return ((values.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)


def rank_one(S: Array) -> tuple[NDArray[np.int8], NDArray[np.int8], Array]:
    """p, q (..., N) and c (...): S is about c p q^T, the nearest matrix of rank one but for rounding. The power iteration on S^T S."""
    largest = np.abs(S).max((-1, -2), initial=0)
    A = S / divisor(largest)[..., None, None]  # so that no square overflows
    energy = np.einsum("...ij,...ij->...i", A, A)
    right = np.take_along_axis(A, energy.argmax(-1)[..., None, None], -2)[..., 0, :]
    for _ in range(ROUNDS):
        left = unit(np.einsum("...ij,...j->...i", A, right))
        right = np.einsum("...ij,...i->...j", A, left)
    (p, p_step), (q, q_step) = whole_numbers(left), whole_numbers(right)
    return p, q, (largest * p_step * q_step).astype(np.float32)


def unit(x: Array) -> Array:
    length = np.sqrt(np.einsum("...i,...i->...", x, x))
    return x / divisor(length)[..., None]


def whole_numbers(x: Array) -> tuple[NDArray[np.int8], Array]:
    """x (..., N) -> codes in -127..127, and the step of each vector (...)."""
    step = np.abs(x).max(-1, initial=0) / np.float32(MOST)
    return np.rint(x / divisor(step)[..., None]).clip(-MOST, MOST).astype(np.int8), step


def divisor(x: Array) -> Array:
    """x, and 1 where x is 0."""
    return np.where(x == 0, np.float32(1), x).astype(np.float32, copy=False)


def outer(left: NDArray[np.int8], right: NDArray[np.int8], weight: Array) -> Array:
    return (left * weight[..., None])[..., :, None] * right.astype(np.float32)[..., None, :]


def rotated(T: Array) -> Array:
    """T R: Walsh-Hadamard of each row, divided by the root of its size. A size that is no power of two: in equal blocks that are one."""
    size = T.shape[-1]
    block = size & -size  # the largest power of two that divides it
    x, half = T.reshape(-1, block), 1
    while half < block:
        pairs = x.reshape(len(x), block // (2 * half), 2, half)
        x = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2).reshape(len(x), block)
        half *= 2
    return (x * np.float32(block**-0.5)).reshape(T.shape)


def two_in_a_byte(Z: NDArray[np.int8]) -> NDArray[np.uint8]:
    """(..., N) in -7..7 -> (..., ceil(N / 2)): code 2 i in the low half of byte i, code 2 i + 1 in the high half, each plus 8."""
    raised = (Z + np.int8(8)).astype(np.uint8)
    if raised.shape[-1] % 2:
        raised = np.concatenate([raised, np.full((*raised.shape[:-1], 1), 8, np.uint8)], axis=-1)
    return raised[..., 0::2] | (raised[..., 1::2] << np.uint8(4))


def one_in_a_byte(codes: NDArray[np.uint8], size: int) -> NDArray[np.int8]:
    """What `two_in_a_byte` made -> (..., size)."""
    Z = np.stack([codes & np.uint8(15), codes >> np.uint8(4)], axis=-1).reshape(*codes.shape[:-1], -1)
    return Z[..., :size].astype(np.int8) - np.int8(8)
