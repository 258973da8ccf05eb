"""GPTVQ and k-means as RWKVQuant ran them (arXiv:2505.03803, and the authors' code), to compare with; gptvq.py is our way.

    W  (out, in)    H  (in, in)  X^T X / tokens    C  (T, K)  the tables of all blocks, ascending    Q  the centroid of each weight

1. When a column block begins, its tables are fitted to the weights as corrected so far: 100 rounds of Lloyd's iteration, all
   weights equal, from points evenly spaced by their distance from the mean ("mahalanobis").
2. Codes with error feedback, damping 0.01, columns in the original order.
3. The M-step: C = A V with half of the singular vectors, A (T, R), V (R, K), or C itself for rank 0; 25 steps of Adam on
   tr((W - Q) H (W - Q)^T), rate 1e-3. Where the loss ends higher than it began, it starts again with a tenth of the rate. Codes are
   not chosen again.
4. Rounded to what is stored.

Differences from the authors' code: they round A, or the tables, to 8 bits with one scale for each column block and leave V as it is;
here A and V are int8 in the integer definition of codecs/, tables of rank 0 have 7 bits, and each row block has a scale.
They round tables of rank 0 before codes are chosen; here they are rounded after the M-step.

k-means is the same without 2. and 3.: nearest codes, and for a rank the singular vectors.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.codecs import CodebookTensor
from rwkvquant.quantizers.codebook.factors import centroids_of, codebook_factors, whole_factors
from rwkvquant.quantizers.codebook.kmeans import codebook_tensor, join_blocks, split_blocks
from rwkvquant.quantizers.codebook.table_map import table_map
from rwkvquant.quantizers.codebook.walk import fit_and_feed_back
from rwkvquant.quantizers.shared.clustering import lloyd_kmeans, nearest_codes
from rwkvquant.quantizers.shared.factor import InverseFactor, factorize
from rwkvquant.quantizers.shared.limits import LARGEST_HALF, LIMITS, SMALLEST_HALF
from rwkvquant.quantizers.shared.table_map import TableMap

LLOYD_ROUNDS = 100
ADAM_STEPS = 25
RATE = 1e-3
RESTARTS = 5
DAMPING = 0.01

Array = Tensor | NDArray[np.floating]


def gptvq_paper(
    W: Array, H: Array, bits: int = 3, group_rows: int = 2, group_cols: int = 32, rank: int | None = None, damping: float = DAMPING
) -> CodebookTensor:
    """W (out, in) and H (in, in) -> codes and codebooks; rank None is half of 2**bits, rank 0 does not compress."""
    W = torch.as_tensor(W)
    H = torch.as_tensor(H).to(W)
    return gptvq_paper_with(factorize(H, damping=damping, act_order=False), W, H, bits, group_rows, group_cols, rank)


def gptvq_paper_with(
    factor: InverseFactor, W: Tensor, H: Tensor, bits: int = 3, group_rows: int = 2, group_cols: int = 32, rank: int | None = None
) -> CodebookTensor:
    """gptvq_paper with a given factor of H, whose columns are in the original order."""
    assert factor.order.tolist() == list(range(W.shape[1])), "the paper has no act-order"
    ones = torch.ones_like(W[:, :1])
    codes, C = fit_and_feed_back(factor, W, ones, group_rows, group_cols, lambda w, _: _lloyd(w, bits, group_rows, group_cols))
    tables = table_map(_unscaled(codes, C, bits, group_rows, group_cols), W)
    return _stored(W, codes, C.shape, _m_step(W, H, tables, _start(C, bits, rank)), bits, group_rows, group_cols)


def kmeans_paper(W: Array, bits: int = 3, group_rows: int = 2, group_cols: int = 32, rank: int | None = None) -> CodebookTensor:
    """W (out, in) -> codes and codebooks, without calibration."""
    W = torch.as_tensor(W)
    C = _lloyd(W, bits, group_rows, group_cols)
    codes = join_blocks(nearest_codes(split_blocks(W, group_rows, group_cols), C), W.shape, group_rows, group_cols)
    shape = (-(-len(W) // group_rows), -(-W.shape[1] // group_cols), 2**bits)
    return _stored(W, codes, torch.Size(shape), _start(C, bits, rank), bits, group_rows, group_cols)


def _lloyd(W: Tensor, bits: int, group_rows: int, group_cols: int) -> Tensor:
    """W (rows, columns) -> (blocks, K) ascending; values beyond the edge have weight 0."""
    inside = split_blocks(torch.ones_like(W), group_rows, group_cols, fill=0)
    return lloyd_kmeans(split_blocks(W, group_rows, group_cols), inside, 2**bits, "mahalanobis", LLOYD_ROUNDS)


def _start(C: Tensor, bits: int, rank: int | None) -> list[Tensor]:
    """What the M-step moves: real A and V with A V nearly C, as [A, V]; or [C] for rank 0. Tables as (T, K)."""
    C = C.flatten(0, -2)
    rank = 2**bits // 2 if rank is None else rank
    if rank == 0:
        return [C]
    V = torch.linalg.svd(C, full_matrices=False)[2][:rank]
    V = torch.nn.functional.pad(V, (0, 0, 0, rank - len(V)))  # where there are fewer tables than `rank`
    return [C @ V.T, V]


def _m_step(W: Tensor, H: Tensor, tables: TableMap, start: list[Tensor]) -> list[Tensor]:
    """The factors after Adam, or `start` where no rate makes the loss fall."""
    rate = RATE
    for _ in range(RESTARTS):
        factors = [factor.clone() for factor in start]
        adam = torch.optim.Adam(factors, lr=rate)
        first = None
        for _ in range(ADAM_STEPS):
            loss = _set_gradients(W, H, tables, factors)
            first = loss if first is None else first
            adam.step()
        if first is not None and _set_gradients(W, H, tables, factors) < first:
            return factors
        rate /= 10
    return start


def _set_gradients(W: Tensor, H: Tensor, tables: TableMap, factors: list[Tensor]) -> float:
    """The loss. Its gradient for the tables, -2 A^T (E H), is passed to the factors by the chain rule."""
    E = W - tables.spread(_product(factors))
    EH = E @ H
    of_tables = -2 * tables.gather(EH).flatten(0, -2)  # (T, K)
    if len(factors) == 2:
        factors[0].grad, factors[1].grad = of_tables @ factors[1].T, factors[0].T @ of_tables
    else:
        factors[0].grad = of_tables
    return float((E * EH).sum())


def _product(factors: list[Tensor]) -> Tensor:
    return factors[0] @ factors[1] if len(factors) == 2 else factors[0]


def _stored(
    W: Tensor, codes: Tensor, shape: torch.Size, factors: list[Tensor], bits: int, group_rows: int, group_cols: int
) -> CodebookTensor:
    """Rounded, with one scale for the rows of a block: the smallest that reaches all their centroids."""
    C = _product(factors).view(shape)
    low, high = LIMITS
    reach = torch.maximum(C.amax((1, 2)) / high, C.amin((1, 2)) / low)
    row_scale = reach.clamp(SMALLEST_HALF, LARGEST_HALF).half().to(W.dtype)  # (row blocks,)
    scaled = row_scale.repeat_interleave(group_rows)[: len(W), None]
    if len(factors) == 1:
        centroids = (C / row_scale[:, None, None]).round().clamp(low, high)
        return codebook_tensor(codes, centroids, scaled, bits, group_rows, group_cols)
    A = factors[0].view(*shape[:2], -1) / row_scale[:, None, None]
    u, basis, shift = whole_factors(A.flatten(0, 1), factors[1])
    u = u.view(A.shape)
    stored = codebook_factors(u, basis, shift)
    return codebook_tensor(codes, centroids_of(u, basis, shift), scaled, bits, group_rows, group_cols, stored)


def _unscaled(codes: Tensor, C: Tensor, bits: int, group_rows: int, group_cols: int) -> CodebookTensor:
    """A tensor that only says which centroid each weight has: its codes and blocks."""
    empty = np.zeros(C.shape, np.uint8)
    return CodebookTensor(codes.cpu().numpy(), bits, empty, np.ones(len(codes), np.float16), group_rows, group_cols)
