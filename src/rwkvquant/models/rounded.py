"""Products of a matrix in bfloat16, which some CPUs and GPUs multiply several times as fast as float32.

    x  (..., in)     W  (out, in)     y = r(r(x) r(W)^T)  (..., out)     r rounds to bfloat16, which has 8 significant bits

Products of two bfloat16 numbers are exact in float32, and they are added in float32. So x, W and y each have a relative error of at most
2^-8 (half a unit of the last of 8 bits), and nothing else is lost. Gradients by x are made in the same way from those by y.

Gives up: y in float32. torch multiplies bfloat16 on CPUs only with a result in bfloat16.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor
from torch.nn import functional

from rwkvquant.models.layers import Weights


class RoundedMatrix:
    """A matrix (out, in) whose products are computed in bfloat16. Inputs and results are of the type that they would have without it."""

    def __init__(self, W: Tensor) -> None:
        self._W = W.bfloat16()
        self.shape = W.shape

    def __getitem__(self, rows: slice) -> RoundedMatrix:
        return RoundedMatrix(self._W[rows])

    def product(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return functional.linear(x.bfloat16(), self._W).to(x.dtype)


def rounded(weights: Weights, keys: Collection[str]) -> dict[str, Any]:
    """The same weights, with those of `keys` that are a Tensor as a RoundedMatrix."""
    return {key: RoundedMatrix(W) if key in keys and isinstance(W, Tensor) else W for key, W in weights.items()}
