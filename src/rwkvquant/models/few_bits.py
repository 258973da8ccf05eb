"""Products whose inputs are rounded to few bits: what activations of B bits would cost, simulated in the torch forward.

    x   (..., n)        the input of a product, cut into groups of G columns; of a matrix with a transform, T x
    s   (..., groups)   absmax of a group / (2^(B-1) - 1)
    q   (..., n)        rint(x / s): symmetric, -(2^(B-1) - 1) to 2^(B-1) - 1
    y   (..., out)      sum over groups of s q W^T

For B = 8 and G = 64, s q are what the engine multiplies (kernels/activations.py). Sums are in float32, and nothing is packed: for other B
this says what is lost, not what is gained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.models.quantized import QuantizedMatrix, linear
from rwkvquant.transforms import NONE, Applied


@dataclass(frozen=True)
class InputRounding:
    """`bits` B of a value, at least 2; `group` G columns have one scale."""

    bits: int
    group: int

    def rounded(self, x: Tensor) -> Tensor:
        """x (..., n) float32 -> s q, (..., n). A last group may be narrower."""
        columns, largest = x.shape[-1], float(2 ** (self.bits - 1) - 1)
        groups = functional.pad(x, (0, -columns % self.group)).unflatten(-1, (-1, self.group))
        scale = groups.abs().amax(-1, keepdim=True) / largest
        # 0 / 0 in a group of zeros; and a subnormal scale is too coarse for its own absmax
        steps = torch.nan_to_num(torch.round(groups / scale), nan=0.0).clamp(-largest, largest)
        return (scale * steps).flatten(-2)[..., :columns]

    def of(self, W: Tensor | QuantizedMatrix, applied: Applied = NONE) -> RoundedInput:
        """The matrix W, which is multiplied with T x, T of `applied`."""
        return RoundedInput(W, applied, self)


class RoundedInput:
    """A matrix (out, in) whose products have rounded inputs."""

    def __init__(self, W: Tensor | QuantizedMatrix, applied: Applied, rounding: InputRounding) -> None:
        self._W, self._applied, self._rounding = W, applied, rounding
        self.shape = W.shape

    def product(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        if self._applied.name != "none":
            changed = self._applied.activations(x.reshape(-1, x.shape[-1]).cpu().numpy())
            x = torch.from_numpy(changed).to(x).reshape(x.shape)
        return linear(self._rounding.rounded(x), self._W)
