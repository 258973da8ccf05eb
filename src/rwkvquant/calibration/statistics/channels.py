"""A factor and a shift for each channel that make up for earlier errors: least squares over tokens.

y  (tokens, width)   what a norm gives in the quantised model       m  (tokens, width)   what is missing from it

a_c, b_c  minimise  sum over tokens of (a_c y_tc + b_c - y_tc - m_tc)^2
a_c - 1 = cov(y_c, m_c) / var(y_c)        b_c = mean(m_c) - (a_c - 1) mean(y_c)
"""

from __future__ import annotations

import torch
from torch import Tensor


class ChannelFit:
    """Running sums of y, m, y^2 and y m over tokens, (width,) each, in float64."""

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.tokens = 0
        self._sums = torch.zeros(4, width, dtype=torch.float64, device=device)

    def add(self, y: Tensor, missing: Tensor) -> None:
        """y and missing (..., width) of some more tokens."""
        y, missing = (part.reshape(-1, part.shape[-1]).double() for part in (y, missing))
        self._sums += torch.stack([part.sum(0) for part in (y, missing, y.square(), y * missing)])
        self.tokens += len(y)

    def line(self, share: float) -> tuple[Tensor, Tensor]:
        """a and b (width,) float64, with `share` of the change: 0 gives 1 and 0. A channel of a constant y only gets a shift."""
        y, missing, squares, products = self._sums / self.tokens
        variance = squares - y.square()
        slope = (products - y * missing) / variance
        slope = torch.where(variance > 1e-9 * squares, slope, 0.0)
        return 1 + share * slope, share * (missing - slope * y)
