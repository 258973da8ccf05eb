"""The randomised Hadamard transform: it spreads every column of a matrix over all columns of its block.

    n  (width)    b  the largest power of two that divides n    D = diag(+-1)  (n, n)    H_b  (b, b), Sylvester's, H_b H_b^T = b

    T = diag(H_b, ..., H_b) D / sqrt(b)        n / b blocks        T^-1 = T^T = D diag(H_b, ..., H_b) / sqrt(b)

T is orthogonal, so nothing is scaled: W' = W T^T has the norms of the rows of W, and its entries are sums of b weights with random
signs, close to normal (QuaRot, arXiv:2404.00456; PCDVQ, arXiv:2506.05432). With n odd, T = D, which changes nothing.

A product with H_b takes b log2(b) additions (fast Walsh-Hadamard, kernels/hadamard.py, or native/hadamard.cpp with the same bits, which
takes a twentieth of the time). The result has the same bits on every machine.

`seed` is where D came from: matrices with the same input and the same seed have the same D, so that T x is needed once for all of them.
`signs` are the bits of D, lowest bit first; 1 is -1.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import FormatError
from rwkvquant.kernels import workshop
from rwkvquant.kernels.hadamard import block, hadamard, signs_of
from rwkvquant.transforms.base import Applied, Array, Arrays, Transform, Values, register

MAX_SEED = (1 << 53) - 1  # what JSON keeps


class Hadamard(Transform):
    """hadamard: block-wise, with random signs."""

    name = "hadamard"
    keys: ClassVar = {"seed": int}
    mixes = True

    def make(self, width: int, seed: int) -> Applied:
        bits = np.random.default_rng([seed, width]).integers(0, 2, width, dtype=np.uint8)
        return Applied(self.name, {"seed": seed}, {"signs": np.packbits(bits, bitorder="little")})

    def check(self, values: Values, width: int) -> None:
        if not 0 <= values["seed"] <= MAX_SEED:
            raise FormatError(f"seed of {self.name} must be 0 to {MAX_SEED}; got {values['seed']}")

    def sizes(self, values: Values, width: int) -> dict[str, tuple[Any, int]]:
        return {"signs": (np.uint8, -(-width // 8))}

    def activations(self, x: Array, values: Values, arrays: Arrays) -> Array:
        return _hadamard(x, arrays["signs"])

    def weights(self, W: Array, values: Values, arrays: Arrays) -> Array:
        return self.activations(W, values, arrays)  # W T^-1 = W T^T: T of each row

    def undone(self, W: Array, values: Values, arrays: Arrays) -> Array:
        return _hadamard(W, np.zeros_like(arrays["signs"])) * signs_of(arrays["signs"], W.shape[1]).astype(W.dtype)

    def hessian(self, H: NDArray[Any], values: Values, arrays: Arrays) -> NDArray[Any]:
        rows = self.activations(H, values, arrays)  # H T^T
        return self.activations(np.ascontiguousarray(rows.T), values, arrays).T

    def native(self, width: int, values: Values, arrays: Arrays) -> Arrays:
        return {"signs": arrays["signs"]}

    def flops(self, width: int, values: Values) -> int:
        """The signs are not counted: they go with the first additions."""
        return width * (block(width).bit_length() - 1) + width


def _hadamard(x: Array, bits: NDArray[np.uint8]) -> Array:
    fast = workshop.hadamard(x, bits)
    return hadamard(x, bits) if fast is None else fast


HADAMARD = Hadamard()
register(HADAMARD)
