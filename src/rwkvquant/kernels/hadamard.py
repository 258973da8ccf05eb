"""The block-wise randomised Hadamard transform of activations: the NumPy definition of native/hadamard.cpp, to the bit.

    y = T x      T = diag(H_b, ..., H_b) D / sqrt(b)      x (n,)    D = diag(+-1)    b  the largest power of two that divides n

H_b takes log2(b) rounds; round i adds and subtracts numbers that are 2^i apart. Each addition is one operation in the type of x, and the
multiplication with 1 / sqrt(b), rounded to that type, comes last. So the result has the same bits on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def block(width: int) -> int:
    """The largest power of two that divides the width."""
    return width & -width


def walsh_hadamard(x: NDArray[Any]) -> NDArray[Any]:
    """x (count, n) of any float type -> x diag(H_b, ..., H_b) / sqrt(b)."""
    count, n = x.shape
    size, apart = block(n), 1
    while apart < size:
        pairs = x.reshape(count, n // (2 * apart), 2, apart)
        x = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).reshape(count, n)
        apart *= 2
    scaled: NDArray[Any] = x * x.dtype.type(size**-0.5)
    return scaled


def signs_of(bits: NDArray[np.uint8], width: int) -> NDArray[np.int8]:
    """The diagonal of D, 1 and -1, from bits, lowest first; a bit of 1 is -1."""
    return (1 - 2 * np.unpackbits(np.asarray(bits), count=width, bitorder="little").astype(np.int8)).astype(np.int8)


def hadamard(x: NDArray[Any], bits: NDArray[np.uint8]) -> NDArray[Any]:
    """x (count, n) of any float type, bits of D (at least n / 8,) uint8 -> T x."""
    return walsh_hadamard(x * signs_of(bits, x.shape[1]).astype(x.dtype))
