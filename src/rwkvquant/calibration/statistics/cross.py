"""Sums over the quantised and the full-precision model: what is missing from the residual stream, and a product could add.

    x, h    (tokens, out), (tokens, in)   the residual stream before a block and a product's input, in the quantised model
    x', h'                                the same in the full-precision model          W  (out, in)  the product's weight

quantizers/shared/correction.py computes the target of the quantised weight from them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.calibration.statistics.rounded import bfloat16_factors, to_bfloat16
from rwkvquant.models import RoundedMatrix


class CrossStatistics:
    """Running sums of (x' - x + (h' - h) W^T)^T h, in float64.

    With a RoundedMatrix for W, its product is in bfloat16, and what is missing and h are rounded to it.
    """

    def __init__(self, W: Tensor | RoundedMatrix) -> None:
        self.W, self.tokens = W, 0
        self._sum: Tensor | None = None  # made at the first `add`, which tells the device

    def add(self, missing_x: Tensor, missing_h: Tensor, h: Tensor) -> None:
        """x' - x (..., out), h' - h and h (..., in) of some more tokens."""
        dtype = self.W.dtype if isinstance(self.W, Tensor) else torch.float32
        missing_x, missing_h, h = (part.reshape(-1, part.shape[-1]).to(dtype) for part in (missing_x, missing_h, h))
        if isinstance(self.W, Tensor):
            product = torch.addmm(missing_x, missing_h, self.W.T).T @ h
        else:
            missing = self.W.product(missing_h).add_(missing_x)
            with bfloat16_factors():
                product = to_bfloat16(missing).T @ to_bfloat16(h)
        if self._sum is None:
            self._sum = torch.zeros(self.W.shape, dtype=torch.float64, device=h.device)
        self._sum += product
        self.tokens += len(h)

    @property
    def moment(self) -> Tensor:
        """The sum divided by the number of tokens, (out, in) float64."""
        assert self._sum is not None, "moment of no tokens"
        return self._sum / self.tokens
