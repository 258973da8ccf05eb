"""What calibration keeps of an activation: not the values, only their second moments.

    X  (tokens, width)  one activation on all calibration text        H = X^T X / tokens  (width, width)

The squared change of a product's output for a weight error E (out, in), averaged over tokens, is tr(E H E^T).
"""

from __future__ import annotations

import torch
from torch import Tensor


class InputStatistics:
    """H of one activation, added up batch by batch: products in float32, running sums in float64."""

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.tokens = 0
        self._sum = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, x: Tensor) -> None:
        """x (..., width): the activation of some more tokens."""
        x = x.reshape(-1, x.shape[-1]).float()
        self._sum += x.T @ x
        self.tokens += len(x)

    @property
    def H(self) -> Tensor:
        """(width, width) float64, a new tensor."""
        assert self.tokens > 0, "statistics of no tokens"
        return self._sum / self.tokens

    @property
    def mean_square(self) -> Tensor:
        """(width,) float64, the diagonal of H."""
        assert self.tokens > 0, "statistics of no tokens"
        return self._sum.diagonal() / self.tokens
