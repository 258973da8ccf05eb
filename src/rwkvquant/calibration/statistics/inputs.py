"""What calibration keeps of an activation: only its second moments, not its values.

    X  (tokens, width)  one activation on all calibration text        H = X^T X / tokens  (width, width)

The squared change of a product's output for a weight error E (out, in), averaged over tokens, is tr(E H E^T).

H is symmetric. From a width of WIDE on, only the blocks on its diagonal and right of it are computed, and the others are copied at the
end; this saves nearly half of the largest product of a calibration. Sums are float64. From WIDE on they are float32 like the products,
which are then added in place: 8192 x 8192 numbers would be 0.5 GB in float64, and a calibration adds only a few batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.calibration.statistics.rounded import bfloat16_factors, to_bfloat16

WIDE = 2048


class InputStatistics:
    """H of one activation, added up batch by batch; or, with weights, sum_t weight_t x_t^T x_t / tokens.

    With `rounded`, x is rounded to bfloat16 first; with weights, x sqrt(weight) is.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu", rounded: bool = False) -> None:
        self.tokens, self._finished, self._rounded = 0, False, rounded
        self._sum = torch.zeros(width, width, dtype=torch.float64 if width < WIDE else torch.float32, device=device)
        self._block = width if width < WIDE else max(512, width // 8)

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """x (..., width): the activation of some more tokens; weights (tokens, 1)."""
        assert not self._finished, "H has been taken"
        x = x.reshape(-1, x.shape[-1]).float()
        if self._rounded:
            left = x = to_bfloat16(x if weights is None else x * weights.sqrt())
        else:
            left = x if weights is None else x * weights
        with bfloat16_factors(self._rounded):
            for start in range(0, x.shape[1], self._block):
                rows = slice(start, start + self._block)
                if self._sum.dtype is x.dtype:
                    self._sum[rows, start:].addmm_(left[:, rows].T, x[:, start:])
                else:
                    self._sum[rows, start:] += left[:, rows].T @ x[:, start:]
        self.tokens += len(x)

    @property
    def H(self) -> Tensor:
        """(width, width) float64, or float32 from WIDE on. It uses the memory of the sums, so nothing can be added afterwards."""
        assert self.tokens > 0, "statistics of no tokens"
        if not self._finished:
            self._finished = True
            self._sum /= self.tokens
            for start in range(0, len(self._sum), self._block):
                rows, before = slice(start, start + self._block), slice(0, start)
                self._sum[rows, before] = self._sum[before, rows].T
        return self._sum

    @property
    def mean_square(self) -> Tensor:
        """(width,) float64, the diagonal of H."""
        assert self.tokens > 0, "statistics of no tokens"
        diagonal = self._sum.diagonal().double()
        return diagonal if self._finished else diagonal / self.tokens
