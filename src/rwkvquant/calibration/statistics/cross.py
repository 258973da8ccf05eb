"""Sums over the quantised and the full-precision model: what is missing from the residual stream, and a product could add.

    x, h    (tokens, out), (tokens, in)   the residual stream before a block and a product's input, in the quantised model
    x', h'                                the same in the full-precision model          W  (out, in)  the product's weight

quantizers/shared/correction.py computes the target of the quantised weight from them.
"""

from __future__ import annotations

import torch
from torch import Tensor


class CrossStatistics:
    """Running sums of (x' - x + (h' - h) W^T)^T h, in float64."""

    def __init__(self, W: Tensor) -> None:
        self.W, self.tokens = W, 0
        self._sum = torch.zeros(W.shape, dtype=torch.float64, device=W.device)

    def add(self, missing_x: Tensor, missing_h: Tensor, h: Tensor) -> None:
        """x' - x (..., out), h' - h and h (..., in) of some more tokens."""
        missing_x, missing_h, h = (part.reshape(-1, part.shape[-1]).to(self.W.dtype) for part in (missing_x, missing_h, h))
        missing = torch.addmm(missing_x, missing_h, self.W.T)
        self._sum += missing.T @ h
        self.tokens += len(h)

    @property
    def moment(self) -> Tensor:
        """The sum divided by the number of tokens, (out, in) float64."""
        return self._sum / self.tokens
