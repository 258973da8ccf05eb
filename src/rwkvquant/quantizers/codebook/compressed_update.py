"""The M-step of compressed codebooks: for given codes, move coefficients and basis to where the loss is least.

    W  (rows, cols)    E = W - Q    H  (cols, cols)    u  (R,)  a table's coefficients    b  (R, K)  the basis    c = u b / 2^shift, rounded

Coefficients: with N and g of update.py, moving centroids by d changes the loss by d N d^T - 2 g.d. So, column block by column block
and with E kept up to date, the coefficients of each table step to better ones. Losses are compared for the centroids as stored.

Basis: without rounding, Q is linear in b, and all weights of the matrix share its R K numbers. They are found by least squares with
conjugate gradients (shared/table_map.py), preconditioned by the R x R blocks that the diagonal of H gives. The gradient uses all rows;
for large matrices the curvature uses only some. The result is rounded, and the coefficients step again. Both are kept if the loss of
the whole matrix is less.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.codecs import CodebookTensor
from rwkvquant.quantizers.codebook.factors import centroids_of, codebook_factors, solve_blocks, step_coefficients, whole
from rwkvquant.quantizers.codebook.table_map import table_map
from rwkvquant.quantizers.codebook.update import Centroids
from rwkvquant.quantizers.shared.residual import Residual
from rwkvquant.quantizers.shared.table_map import least_squares

SWEEPS = 1  # before the basis moves, and again after it
BASIS_STEPS = 4
SAMPLED = 1 << 22  # weights are enough to find the curvature: 512 rows of 8192, for the R K numbers of a basis


def update_factors(W: Tensor, H: Tensor, q: CodebookTensor, residual: Residual | None = None) -> CodebookTensor:
    """W (rows, cols), H (cols, cols), q with factors -> the same codes, and factors that lose no more.

    `residual` is that of q, and is updated.
    """
    residual = residual or Residual(W, H, q.decode())
    moving = Centroids(residual, q)
    candidates, losses, states = [q], [residual.losses().sum()], [moving.start]

    def keep(new: CodebookTensor) -> None:
        candidates.append(new)
        losses.append(residual.losses().sum())
        states.append((residual.E, residual.G))

    keep(_step_coefficients(moving, q))
    moved = move_basis(W, H, candidates[-1], residual)
    residual.reset(moved.decode())
    keep(_step_coefficients(moving, moved))
    best = int(torch.stack(losses).argmin())  # the first of equals
    residual.E, residual.G = states[best]
    return candidates[best]


def update_coefficients(W: Tensor, H: Tensor, q: CodebookTensor) -> CodebookTensor:
    """Coefficients that lose no more in any row block, except for rounding in the sums."""
    return _step_coefficients(Centroids(Residual(W, H, q.decode()), q), q)


def _step_coefficients(moving: Centroids, q: CodebookTensor) -> CodebookTensor:
    """`moving` has q's codes, and its residual is that of q."""
    assert q.factors is not None
    W = moving.residual.W
    basis, shift = torch.from_numpy(q.factors.basis).to(W), q.factors.shift
    u = torch.from_numpy(q.factors.coefficients).to(W)
    moving.c = centroids_of(u, basis, shift)

    def move(N: Tensor, g: Tensor, block: int) -> Tensor:
        new = step_coefficients(N, g, u[:, block], basis, shift)
        step = centroids_of(new, basis, shift) - moving.c[:, block]
        u[:, block] = new
        return step

    for _ in range(SWEEPS):
        if not moving.sweep(move):
            break
    return with_factors(q, u, basis, shift)


def move_basis(W: Tensor, H: Tensor, q: CodebookTensor, residual: Residual | None = None) -> CodebookTensor:
    """The same codes and coefficients, and the basis of least loss, rounded. After rounding it may lose more. `residual` is that of q."""
    assert q.factors is not None
    residual = residual or Residual(W, H, q.decode())
    basis, unit = torch.from_numpy(q.factors.basis).to(W), 2.0**-q.factors.shift
    blocks = _sampled_blocks(q)
    part = _of_blocks(q, blocks)
    assert part.factors is not None
    tables, sampled = table_map(part, W), torch.from_numpy(part.factors.coefficients).to(W)
    share = len(blocks) / len(q.codebooks)  # of the curvature of all rows

    def of_basis(u: Tensor, by_table: Tensor) -> Tensor:
        return unit * torch.einsum("pbr,pbk->rk", u, by_table)

    def spread(basis: Tensor) -> Tensor:
        return tables.spread(unit * (sampled @ basis))

    def gather(values: Tensor) -> Tensor:
        return of_basis(sampled, tables.gather(values)) / share

    def precondition(gradient: Tensor) -> Tensor:
        return solve_blocks(gram, gradient.T).T

    weights = tables.weights(residual.H.diagonal())
    gram = unit**2 / share * torch.einsum("pbr,pbk,pbq->krq", sampled, weights, sampled)
    u = torch.from_numpy(q.factors.coefficients).to(W)
    gradient = of_basis(u, table_map(q, W).gather(residual.G.T))
    step = least_squares(gradient, residual.H, spread, gather, precondition, 0, BASIS_STEPS)
    return with_factors(q, u, whole(basis + step), q.factors.shift)


def _sampled_blocks(q: CodebookTensor) -> NDArray[np.int64]:
    """The row blocks that give the curvature: all of them, or evenly spread ones with SAMPLED weights together."""
    blocks = len(q.codebooks)
    chosen = min(blocks, max(1, SAMPLED // (q.shape[1] * q.group_rows)))
    return np.linspace(0, blocks - 1, chosen).round().astype(np.int64)


def _of_blocks(q: CodebookTensor, blocks: NDArray[np.int64]) -> CodebookTensor:
    """The row blocks with these indices, as a separate tensor."""
    assert q.factors is not None
    rows = (blocks[:, None] * q.group_rows + np.arange(q.group_rows)).flatten()
    rows = rows[rows < q.shape[0]]
    factors = replace(q.factors, coefficients=q.factors.coefficients[blocks])
    return replace(q, codes=q.codes[rows], codebooks=q.codebooks[blocks], row_scale=q.row_scale[rows], factors=factors)


def with_factors(q: CodebookTensor, u: Tensor, basis: Tensor, shift: int) -> CodebookTensor:
    """q with other factors: u (row blocks, column blocks, R), basis (R, K), whole numbers."""
    factors = codebook_factors(u, basis, shift)
    return replace(q, codebooks=factors.centroids(), factors=factors)
