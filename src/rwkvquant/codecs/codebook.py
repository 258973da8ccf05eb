"""One-dimensional codebooks ("VQ", d=1), plain or compressed to a low rank.

Decoded weights are float32 and defined to the last bit: row_scale * (centroid - 64).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkvquant.config import require
from rwkvquant.kernels.gemv_codebook import CENTROID_ZERO


@dataclass(frozen=True)
class CodebookConfig:
    """One-dimensional codebooks: 2**bits centroids for each `group_rows` x 32 weights; `rank` 0, or of their compression.

    group_rows 1 is for element-wise vectors: 64 neighbours share a codebook.
    """

    bits: int = 3
    group_rows: int = 4
    rank: int = 0

    def __post_init__(self) -> None:
        require("bits", self.bits, (2, 3, 4))
        require("rank", self.rank, range(min(9, 2**self.bits)))  # a table has no more than 2**bits numbers
        require("group_rows", self.group_rows, (1, 4, 8, 16) if self.bits == 4 else (1, 2, 4, 8, 16))


@dataclass(frozen=True)
class CodebookFactors:
    """Codebooks compressed to rank R, as whole numbers:

        centroid_k = clamp((sum_r coefficient_r * basis_rk + half) >> shift, -64, 63) + 64        half = 2**(shift-1), or 0 for shift 0

    coefficients (ceil(rows/group_rows), ceil(cols/group_cols), R) int8; basis (R, 2**bits) int8, one for the whole matrix; shift 0..14.
    Kernels and quantisers follow this integer definition, so every reader sees the same centroids.
    """

    coefficients: NDArray[np.int8]
    basis: NDArray[np.int8]
    shift: int

    def centroids(self) -> NDArray[np.uint8]:
        """(row blocks, column blocks, 2**bits) in 0..127. |sum| <= R * 2**14, far inside 32 bits."""
        total = self.coefficients.astype(np.int32) @ self.basis.astype(np.int32)
        half = 1 << self.shift >> 1
        return (np.clip((total + half) >> self.shift, -CENTROID_ZERO, 127 - CENTROID_ZERO) + CENTROID_ZERO).astype(np.uint8)


@dataclass(frozen=True)
class CodebookTensor:
    """A one-dimensional codebook of 2**bits centroids for each block of `group_rows` x `group_cols` weights ("VQ", d=1).

    codes (rows, cols) uint8; codebooks (ceil(rows/group_rows), ceil(cols/group_cols), 2**bits) uint8 in 0..127;
    row_scale (rows,) float16. Where the codebooks are compressed, `factors` is what is stored and codebooks are factors.centroids().
    """

    codes: NDArray[np.uint8]
    bits: int
    codebooks: NDArray[np.uint8]
    row_scale: NDArray[np.float16]
    group_rows: int = 2
    group_cols: int = 32
    factors: CodebookFactors | None = None

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.codes.shape
        return rows, cols

    def decode(self) -> NDArray[np.float32]:
        """(rows, cols) float32 weights."""
        rows, cols = self.codes.shape
        row_group = np.arange(rows)[:, None] // self.group_rows
        col_group = np.arange(cols)[None, :] // self.group_cols
        centroids = self.codebooks[row_group, col_group, self.codes].astype(np.float32) - CENTROID_ZERO
        return self.row_scale.astype(np.float32)[:, None] * centroids
