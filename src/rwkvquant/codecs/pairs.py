"""Two-dimensional codebooks ("VQ", d=2): one code for two neighbouring columns of a row.

Decoded weights are float32 and defined to the last bit: row_scale * (component of the centroid - 64).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkvquant.config import require
from rwkvquant.errors import ConfigError
from rwkvquant.kernels.gemv_codebook import CENTROID_ZERO


@dataclass(frozen=True)
class PairConfig:
    """Two-dimensional codebooks: 2**bits pairs of neighbouring weights for `group_rows` whole rows."""

    bits: int = 6
    group_rows: int = 64

    def __post_init__(self) -> None:
        require("bits", self.bits, range(4, 9))
        if self.group_rows < 16 or self.group_rows % 16:
            raise ConfigError(f"group_rows of pair codebooks must be a multiple of 16; got {self.group_rows}")


@dataclass(frozen=True)
class PairCodebookTensor:
    """A two-dimensional codebook: one code for two neighbouring columns of a row ("VQ", d=2), 2**bits pairs for `group_rows` rows.

    codes (rows, ceil(cols/2)) uint8; codebooks (ceil(rows/group_rows), 2**bits, 2) uint8 in 0..127, one for all columns of its rows;
    row_scale (rows,) float16; cols, as an odd last column has a partner that is not there.
    """

    codes: NDArray[np.uint8]
    bits: int
    codebooks: NDArray[np.uint8]
    row_scale: NDArray[np.float16]
    cols: int
    group_rows: int = 16

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.cols

    def decode(self) -> NDArray[np.float32]:
        """(rows, cols) float32 weights."""
        rows = self.codes.shape[0]
        row_group = np.arange(rows)[:, None] // self.group_rows
        pairs = self.codebooks[row_group, self.codes].astype(np.float32) - CENTROID_ZERO  # (rows, pairs, 2)
        return self.row_scale.astype(np.float32)[:, None] * pairs.reshape(rows, -1)[:, : self.cols]
