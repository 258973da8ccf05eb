"""The randomised Hadamard transform: it spreads every column of a matrix over all columns of its block.

    n  (width)    b  the largest power of two that divides n    D = diag(+-1)  (n, n)    H_b  (b, b), Sylvester's, H_b H_b^T = b

    T = diag(H_b, ..., H_b) D / sqrt(b)        n / b blocks        T^-1 = T^T = D diag(H_b, ..., H_b) / sqrt(b)

T is orthogonal, so nothing is scaled: W' = W T^T has the norms of the rows of W, and its entries are sums of b weights with random
signs, close to normal (QuaRot, arXiv:2404.00456; PCDVQ, arXiv:2506.05432). With n odd, T = D, which changes nothing.

A product with H_b takes b log2(b) additions, in log2(b) rounds; round i adds and subtracts numbers that are 2^i apart (fast
Walsh-Hadamard). Each addition is one operation in the type of x, and the multiplication with 1 / sqrt(b), rounded to that type, comes last.
So the result has the same bits on every machine.

`seed` is where D came from: matrices with the same input and the same seed have the same D, so that T x is needed once for all of them.
`signs` are the bits of D, lowest bit first; 1 is -1.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import FormatError
from rwkvquant.transforms.base import Applied, Array, Arrays, Transform, Values, register

MAX_SEED = (1 << 53) - 1  # what JSON keeps


class Hadamard(Transform):
    """hadamard: block-wise, with random signs."""

    name = "hadamard"
    keys: ClassVar = {"seed": int}

    def make(self, width: int, seed: int) -> Applied:
        bits = np.random.default_rng([seed, width]).integers(0, 2, width, dtype=np.uint8)
        return Applied(self.name, {"seed": seed}, {"signs": np.packbits(bits, bitorder="little")})

    def check(self, values: Values, width: int) -> None:
        if not 0 <= values["seed"] <= MAX_SEED:
            raise FormatError(f"seed of {self.name} must be 0 to {MAX_SEED}; got {values['seed']}")

    def sizes(self, values: Values, width: int) -> dict[str, tuple[Any, int]]:
        return {"signs": (np.uint8, -(-width // 8))}

    def activations(self, x: Array, values: Values, arrays: Arrays) -> Array:
        return walsh_hadamard(x * _signs(arrays, x.shape[1]).astype(x.dtype))

    def weights(self, W: Array, values: Values, arrays: Arrays) -> Array:
        return self.activations(W, values, arrays)  # W T^-1 = W T^T: T of each row

    def undone(self, W: Array, values: Values, arrays: Arrays) -> Array:
        return walsh_hadamard(W) * _signs(arrays, W.shape[1]).astype(W.dtype)

    def hessian(self, H: NDArray[Any], values: Values, arrays: Arrays) -> NDArray[Any]:
        rows = self.activations(H, values, arrays)  # H T^T
        return self.activations(np.ascontiguousarray(rows.T), values, arrays).T

    def flops(self, width: int, values: Values) -> int:
        """The signs are not counted: they go with the first additions."""
        return width * (block(width).bit_length() - 1) + width


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


def _signs(arrays: Arrays, width: int) -> NDArray[np.int8]:
    bits = np.unpackbits(np.asarray(arrays["signs"]), count=width, bitorder="little")
    return (1 - 2 * bits.astype(np.int8)).astype(np.int8)


register(Hadamard())
