"""The matrices of a state between tokens, in 8 bits a value: rows are rotated, then rounded up or down at random. docs/methods/state.md.

    S  (N, N) one head, [value, key]    Z  (N, N) whole numbers in -127..127    d  (N,) steps, float32    u  (N, N) random, 0 <= u < 1
    H  blocks of the Walsh-Hadamard matrix of b keys, of 1 and -1: H H = b    b  the largest power of two that divides N, at most 64

    T = S H                              S = T H / b                                                                            Eq. (1)
    d_i = max_j |T_ij| / (127 b)         rounded up or down at random to 11 significant bits                                    Eq. (2)
    Z_ij = floor(T_ij / (b d_i) + u_ij)  127 or -127 for the largest of a row; so |T_ij - b d_i Z_ij| < b d_i                    Eq. (3)
    S is about d_i (Z H)_ij                                                                                                     Eq. (4)

T / (b d) is first rounded to a multiple of 2^-14. A row of N values (an even number) is N + 4 bytes: Z of each value, and d, a float32.
Rows whose largest |T| is below 1e-30 are 0.

Why 11 bits: |Z H| is below 2^13, so d Z H has at most 24 significant bits, and float32 has it exactly. So rows that were unpacked are
packed to the same bytes, and a state that was copied or saved goes on as if it had not been.

The random numbers are a hash of the rows that were there before the token, of the whole head (`seed_of`), and of the place in the head.
Nothing else is kept, no counter and no generator, so results depend on the text only. Each number is uniform if the seed is, so the mean of
what is kept is S. Two values give up a little of that: those between 0.999 and 1 times the largest of their row.

The NumPy version of native/state_rotated.cpp, to the bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rows = NDArray[np.uint8]
Words = NDArray[np.uint32]

BITS = 8
MOST = 127
BLOCK = 64
FRACTION = 14  # bits of T / (b d) below the point, and of u
DROPPED = 24 - 11  # bits of d
NOTHING = np.float32(1e-30)
GOLDEN = 0x9E3779B9


def row_bytes(size: int) -> int:
    """Of a row of `size` values."""
    return size + 4


def mixed(x: Words) -> Words:
    """A one-to-one map of 32 bits, in which each bit of x changes about half of the bits (Wellons, 2018: "lowbias32")."""
    with np.errstate(over="ignore"):  # products are modulo 2^32
        for shift, odd in ((16, 0x21F0AAAD), (15, 0xD35A2D97), (15, 1)):
            x = (x ^ x >> np.uint32(shift)) * np.uint32(odd)
    return x


MULTIPLIERS = mixed(np.arange(1, BLOCK + 1, dtype=np.uint32)) | np.uint32(1)  # odd, so a product is uniform if its other factor is


def seed_of(rows: Rows) -> Words:
    """rows (..., N, N + 4) -> (...), a hash of each head's bytes: a sum of its words of 32 bits, each times an odd number of its own."""
    words = np.ascontiguousarray(rows).reshape(*rows.shape[:-2], -1).view("<u4").astype(np.uint32)
    odd = np.arange(words.shape[-1], dtype=np.uint32) * np.uint32(GOLDEN) | np.uint32(1)
    return mixed(np.asarray(((words ^ words >> 16) * odd).sum(-1, dtype=np.uint32)))


def pack_rows(S: Array, seed: Words | int = 0) -> Rows:
    """S (..., N, N) -> (..., N, N + 4). `seed`: one for each head, (...), or for all."""
    rows, size = S.shape[-2:]
    chunks = -(-size // BLOCK)
    places = np.arange(rows * chunks, dtype=np.uint32).reshape(rows, chunks) * np.uint32(GOLDEN)
    keys = mixed(np.asarray(seed, np.uint32)[..., None, None] + places)  # (..., rows, chunks)
    T = summed(S)  # Eq. (1)
    largest = np.abs(T).max(-1, keepdims=True)
    nothing = largest < NOTHING
    b = block(size)
    exact = np.where(nothing, np.float32(1), largest) / np.float32(MOST * b)
    d = ((exact.view(np.uint32) + (keys[..., :1] >> 32 - DROPPED)) >> DROPPED << DROPPED).view(np.float32)  # Eq. (2)
    x = np.rint(T * (np.float32(1 << FRACTION) / (d * np.float32(b)))).astype(np.int32)
    u = (keys[..., None] * MULTIPLIERS >> 32 - FRACTION).reshape(*keys.shape[:-1], -1)[..., :size].astype(np.int32)
    Z = np.clip(x + u >> FRACTION, -MOST, MOST)  # Eq. (3)
    Z = np.where(np.abs(T) == largest, np.where(T < 0, -MOST, MOST), Z)
    Z, d = np.where(nothing, 0, Z), np.where(nothing, np.float32(0), d)
    return np.concatenate([Z.astype(np.int8).view(np.uint8), d.astype("<f4").view(np.uint8)], axis=-1)


def unpack_rows(rows: Rows) -> Array:
    """What `pack_rows` made -> S (..., N, N)."""
    d = np.ascontiguousarray(rows[..., -4:]).view("<f4").astype(np.float32)
    return summed(rows[..., :-4].view(np.int8).astype(np.float32)) * d  # Eq. (4)


def block(size: int) -> int:
    """b of Eq. (1)."""
    return min(size & -size, BLOCK)


def summed(S: Array) -> Array:
    """S H. Each round adds and subtracts values that are so far apart, so each value is one sum in one order."""
    size = S.shape[-1]
    for apart in (32, 16, 8, 4, 2, 1):
        if apart < block(size):
            pairs = S.reshape(*S.shape[:-1], size // (2 * apart), 2, apart)
            S = np.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], -2).reshape(S.shape)
    return S
