"""The block-wise randomised Hadamard transform of activations: the NumPy definition of native/hadamard.cpp, to the bit.

    y = T x      T = diag(H_b, ..., H_b) D / sqrt(b)      x (n,)    D = diag(+-1)    b  the largest power of two that divides n

H_b takes log2(b) rounds; round i adds and subtracts numbers that are 2^i apart. Each addition is one operation in the type of x, and the
multiplication with 1 / sqrt(b), rounded to that type, comes last. So the result has the same bits on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PANEL = 128


def block(width: int) -> int:
    """The largest power of two that divides the width."""
    return width & -width


def walsh_hadamard(x: NDArray[Any]) -> NDArray[Any]:
    """x (count, n) of any float type -> x diag(H_b, ..., H_b) / sqrt(b).

    PANEL vectors at a time, one in each column: they stay in a cache through all rounds, and a round adds whole rows of numbers. A Hessian
    of 2,048 inputs takes an eighth of the time.
    """
    count, n = x.shape
    done = np.empty((count, n), x.dtype)
    for begin in range(0, count, PANEL):
        done[begin : begin + PANEL] = _rounds(np.array(x[begin : begin + PANEL].T, order="C")).T
    return done


def _rounds(x: NDArray[Any]) -> NDArray[Any]:
    """x (n, count), which is changed -> diag(H_b, ..., H_b) x / sqrt(b)."""
    n, count = x.shape
    size, apart = block(n), 1
    while apart < size:
        pairs = x.reshape(n // (2 * apart), 2, apart, count)
        difference = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = difference
        apart *= 2
    x *= x.dtype.type(size**-0.5)
    return x


def signs_of(bits: NDArray[np.uint8], width: int) -> NDArray[np.int8]:
    """The diagonal of D, 1 and -1, from bits, lowest first; a bit of 1 is -1."""
    return (1 - 2 * np.unpackbits(np.asarray(bits), count=width, bitorder="little").astype(np.int8)).astype(np.int8)


def hadamard(x: NDArray[Any], bits: NDArray[np.uint8]) -> NDArray[Any]:
    """x (count, n) of any float type, bits of D (at least n / 8,) uint8 -> T x."""
    return walsh_hadamard(x * signs_of(bits, x.shape[1]).astype(x.dtype))
