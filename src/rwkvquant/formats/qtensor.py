"""Logical tensors: what a quantiser returns and what every layout decodes to. Nothing here knows tiles, files or bytes.

    rows, cols   the matrix as (out, in); a vector of C elements is (1, C)
    groups       ceil(cols / group_size); the last group of a row may be short

Decoded weights are float32 and defined to the last bit, in this order of operations:

    uniform      (row_scale * scale_code) * (code - zero)      or      scale * (code - zero)
    codebook     row_scale * (centroid - 64)
    pairs        row_scale * (component of the centroid - 64)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CENTROID_ZERO = 64  # centroids are stored in 7 bits, 0..127, so that no kernel's 16-bit products can saturate


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


@dataclass(frozen=True)
class DenseTensor:
    """Values that are not quantised: float16, or float32 where float16 would lose something."""

    values: NDArray[np.float16] | NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def decode(self) -> NDArray[np.float32]:
        return self.values.astype(np.float32)


QTensor = UniformTensor | CodebookTensor | PairCodebookTensor | DenseTensor
