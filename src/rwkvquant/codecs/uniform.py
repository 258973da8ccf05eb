"""Uniform grids ("SQ" in RWKVQuant): what RTN and GPTQ round to.

Decoded weights are float32 and defined to the last bit, in this order of operations:

    (row_scale * scale_code) * (code - zero)      or      scale * (code - zero)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkvquant.config import SCALE_BITS, require
from rwkvquant.errors import ConfigError


@dataclass(frozen=True)
class GridConfig:
    """A uniform grid: what RTN and GPTQ round to.

    scale_bits 8: one uint8 per group and one float16 per row; 16: one float16 per group.
    """

    bits: int = 3
    group_size: int = 64
    symmetric: bool = False
    scale_bits: int = 8

    def __post_init__(self) -> None:
        require("bits", self.bits, range(1, 9))
        require("scale_bits", self.scale_bits, SCALE_BITS)
        if self.group_size < 1:
            raise ConfigError(f"group_size must be at least 1; got {self.group_size}")


@dataclass(frozen=True)
class UniformTensor:
    """A uniform grid for each group of a row ("SQ" in RWKVQuant).

    codes (rows, cols) uint8 below 2**bits; zeros (rows, groups) uint8 below 2**bits, or None for a symmetric grid, whose
    zero is 2**(bits-1). Scales are either `scales` (rows, groups) float16, or `scale_codes` (rows, groups) uint8 times
    `row_scale` (rows,) float16.
    """

    codes: NDArray[np.uint8]
    bits: int
    group_size: int
    zeros: NDArray[np.uint8] | None = None
    scales: NDArray[np.float16] | None = None
    scale_codes: NDArray[np.uint8] | None = None
    row_scale: NDArray[np.float16] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.codes.shape
        return rows, cols

    def group_scales(self) -> NDArray[np.float32]:
        """(rows, groups) float32."""
        if self.scales is not None:
            return self.scales.astype(np.float32)
        assert self.scale_codes is not None and self.row_scale is not None
        return self.row_scale.astype(np.float32)[:, None] * self.scale_codes.astype(np.float32)

    def group_zeros(self) -> NDArray[np.float32]:
        """(rows, groups) float32."""
        if self.zeros is None:
            return np.full(self.group_scales().shape, 2 ** (self.bits - 1), np.float32)
        return self.zeros.astype(np.float32)

    def decode(self) -> NDArray[np.float32]:
        """(rows, cols) float32 weights."""
        cols = self.codes.shape[1]
        group = np.arange(cols) // self.group_size
        weights = self.codes.astype(np.float32)
        weights -= self.group_zeros()[:, group]
        weights *= self.group_scales()[:, group]
        return weights
