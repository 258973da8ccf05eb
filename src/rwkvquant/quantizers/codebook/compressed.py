"""Compressed codebooks with error feedback: the tables of a matrix in a shared basis (factors.py), and codes for them.

    W  (out, in)   weight       H  (in, in)   X^T X / tokens       Q  s_r * centroid       loss = tr((W - Q) H (W - Q)^T)

1. Find the basis from the tables of an uncompressed tensor, where each centroid is weighted by the weights it serves.
2. Choose codes again, with error feedback and this basis: a column block's coefficients are fitted to the weights as corrected
   so far, by least squares and nearest codes in turn, starting from the uncompressed table (walk.py).
3. compressed_update.py moves first the coefficients, then the basis, to less loss under H. Codes are chosen again (gptvq.py).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, CodebookTensor
from rwkvquant.quantizers.codebook.factors import (
    centroids_of,
    codebook_factors,
    factor_tables,
    fit_coefficients,
    nearest_of_any,
    whole_factors,
)
from rwkvquant.quantizers.codebook.kmeans import block_points, codebook_tensor, expand_importance, join_blocks, kmeans_codebooks
from rwkvquant.quantizers.codebook.table_map import table_map
from rwkvquant.quantizers.codebook.walk import fit_and_feed_back
from rwkvquant.quantizers.shared.factor import InverseFactor


def compress_with(factor: InverseFactor, W: Tensor, tensor: CodebookTensor, rank: int, weighting: str = "hessian") -> CodebookTensor:
    """W (out, in) and an uncompressed tensor, which gives bits, blocks and row_scale -> codes and codebooks of this rank."""
    assert tensor.factors is None and 1 <= rank <= 2**tensor.bits, rank
    group_rows, group_cols = tensor.group_rows, tensor.group_cols
    row_scale = torch.from_numpy(tensor.row_scale).to(W)[:, None]
    importance = expand_importance(factor.diagonal if weighting == "hessian" else None, W)
    basis, shift = find_basis(W, tensor, importance, rank)
    tables = torch.from_numpy(tensor.codebooks).to(W) - CENTROID_ZERO
    coefficients: list[Tensor] = []

    def fit(corrected: Tensor, columns: slice) -> Tensor:
        of_columns = None if importance is None else importance[:, columns]
        x, p = block_points(corrected, row_scale, of_columns, group_rows, group_cols)
        start = tables[:, columns.start // group_cols : -(-columns.stop // group_cols)].flatten(0, 1)
        u = fit_coefficients(x, p, start, basis, shift)
        coefficients.append(u.view(len(tables), -1, rank))
        return centroids_of(u, basis, shift)

    codes, centroids = fit_and_feed_back(factor, W, row_scale, group_rows, group_cols, fit)
    factors = codebook_factors(torch.cat(coefficients, 1), basis, shift)
    return codebook_tensor(codes, centroids, row_scale, tensor.bits, group_rows, group_cols, factors)


def kmeans_compressed(
    W: Tensor | NDArray[np.floating],
    bits: int = 3,
    group_rows: int = 2,
    group_cols: int = 32,
    importance: Tensor | NDArray[np.floating] | None = None,
    rank: int = 4,
) -> CodebookTensor:
    """Without feedback: the tables of kmeans.kmeans_codebooks, compressed, and the nearest codes for the compressed tables."""
    W = torch.as_tensor(W)
    plain = kmeans_codebooks(W, bits, group_rows, group_cols, importance)
    weights = expand_importance(importance, W)
    row_scale = torch.from_numpy(plain.row_scale).to(W)[:, None]
    basis, shift = find_basis(W, plain, weights, rank)
    x, p = block_points(W, row_scale, weights, group_rows, group_cols)
    tables = torch.from_numpy(plain.codebooks).to(W).flatten(0, 1) - CENTROID_ZERO
    u = fit_coefficients(x, p, tables, basis, shift)
    centroids = centroids_of(u, basis, shift)
    codes = join_blocks(nearest_of_any(x, centroids), W.shape, group_rows, group_cols)
    blocks = plain.codebooks.shape[:2]
    factors = codebook_factors(u.view(*blocks, -1), basis, shift)
    return codebook_tensor(codes, centroids.view(*blocks, -1), row_scale, bits, group_rows, group_cols, factors)


def find_basis(W: Tensor, tensor: CodebookTensor, importance: Tensor | None, rank: int) -> tuple[Tensor, int]:
    """The basis (rank, 2**bits), whole numbers in the type of W, and the shift, from the tables of an uncompressed tensor."""
    centroids = torch.from_numpy(tensor.codebooks).to(W.device).double() - CENTROID_ZERO
    served = table_map(tensor, W).weights(torch.ones_like(W) if importance is None else importance)
    U, V = factor_tables(centroids.flatten(0, 1), served.flatten(0, 1), rank)
    _, basis, shift = whole_factors(U, V)
    return basis.to(W), shift
