"""The M-step of compressed codebooks: with the codes as they are, move coefficients and basis to where the loss is least.

    W  (rows, cols)    E = W - Q    H  (cols, cols)    u  (R,)  a table's coefficients    b  (R, K)  the basis    c = u b / 2^shift, rounded

Coefficients: with N and g of codebook_update.py, centroids moved by d change the loss by d N d^T - 2 g.d. So column block by
column block, E kept up to date, each table's coefficients step to better ones, judged by the centroids as stored.

Basis: left unrounded, Q is linear in b, and all weights of the matrix share its R K numbers: least squares by conjugate gradients
(table_map.py), preconditioned by the R x R blocks that H's diagonal gives. The result is rounded, the coefficients step again,
and both are taken together if the whole loses less by it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rwkvquant.formats.qtensor import CodebookTensor
from rwkvquant.quantizers.codebook_factors import centroids_of, codebook_factors, solve_blocks, step_coefficients, whole
from rwkvquant.quantizers.codebook_update import Centroids
from rwkvquant.quantizers.residual import Residual
from rwkvquant.quantizers.table_map import TableMap, least_squares

SWEEPS = 1  # twice an update
BASIS_STEPS = 4


def update_factors(W: Tensor, H: Tensor, q: CodebookTensor, residual: Residual | None = None) -> CodebookTensor:
    """W (rows, cols), H (cols, cols), q with factors -> the same codes, and factors that lose no more.

    `residual` is that of q, and goes on with it.
    """
    residual = residual or Residual(W, H, q.decode())
    moving = Centroids(residual, q)
    found, losses, states = [q], [residual.losses().sum()], [moving.start]

    def keep(new: CodebookTensor) -> None:
        found.append(new)
        losses.append(residual.losses().sum())
        states.append((residual.E, residual.G))

    keep(_step_coefficients(moving, q))
    moved = move_basis(W, H, found[-1], residual)
    residual.fresh(moved.decode())
    keep(_step_coefficients(moving, moved))
    best = int(torch.stack(losses).argmin())  # the first of equals
    residual.E, residual.G = states[best]
    return found[best]


def update_coefficients(W: Tensor, H: Tensor, q: CodebookTensor) -> CodebookTensor:
    """Coefficients that lose no more in any row block, but for the rounding of sums."""
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
    """The same codes and coefficients, and the basis of least loss, rounded; it may lose more for that. `residual` is that of q."""
    assert q.factors is not None
    residual = residual or Residual(W, H, q.decode())
    basis, unit = torch.from_numpy(q.factors.basis).to(W), 2.0**-q.factors.shift
    u = torch.from_numpy(q.factors.coefficients).to(W)
    tables = TableMap.of_codebooks(q, W)
    gram = unit**2 * torch.einsum("pbr,pbk,pbq->krq", u, tables.weights(residual.H.diagonal()), u)

    def spread(basis: Tensor) -> Tensor:
        return tables.spread(unit * (u @ basis))

    def gather(values: Tensor) -> Tensor:
        return unit * torch.einsum("pbr,pbk->rk", u, tables.gather(values))

    def precondition(gradient: Tensor) -> Tensor:
        return solve_blocks(gram, gradient.T).T

    step = least_squares(residual.G.T, residual.H, spread, gather, precondition, 0, BASIS_STEPS)
    return with_factors(q, u, whole(basis + step), q.factors.shift)


def with_factors(q: CodebookTensor, u: Tensor, basis: Tensor, shift: int) -> CodebookTensor:
    """q with other factors: u (row blocks, column blocks, R), basis (R, K), whole numbers."""
    factors = codebook_factors(u, basis, shift)
    return replace(q, codebooks=factors.centroids(), factors=factors)
