"""Sums over the quantised and the full-precision model: how far a product's input has moved.

    h   (tokens, in)   a product's input in the quantised model         h'  the same in the full-precision model

quantizers/shared/drift.py says what they are for.
"""

from __future__ import annotations

from torch import Tensor

from rwkvquant.calibration.statistics.inputs import WIDE


class DriftStatistics:
    """Running sums of (h' - h)^T h, in float64; in float32 from a width of WIDE on, as those of InputStatistics."""

    def __init__(self) -> None:
        self.tokens = 0
        self._sum: Tensor | None = None  # made at the first `add`, which tells the width

    def add(self, missing_x: Tensor, missing_h: Tensor, h: Tensor) -> None:
        """h' - h and h (..., in) of some more tokens. The residual stream's x' - x is not used."""
        missing_h, h = (part.reshape(-1, part.shape[-1]).float() for part in (missing_h, h))
        product = missing_h.T @ h
        if self._sum is None:
            self._sum = product.double() if h.shape[1] < WIDE else product
        else:
            self._sum += product
        self.tokens += len(h)

    @property
    def moment(self) -> Tensor:
        """The sum divided by the number of tokens, (in, in)."""
        assert self._sum is not None, "drift of no tokens"
        return self._sum / self.tokens
