"""LNQ: tables and codes of every row in turn, each to less loss (GuidedQuant, arXiv:2505.07004, section 4).

    W  (rows, in)   weights that share H        H  (in, in)   second moments of their input, weighted or not
    w  (in,)        one row                     P  (in, K)    one-hot codes of the row            T  (K,)   its table, Q = T P^T

    loss = (w - Q) H (w - Q)^T

    tables   T = w H P (P^T H P)^-1                                        the least squares answer for the codes      Eq. (10)
    codes    one column after the other, PASSES times: the entry nearest to  Q_j + ((w - Q) H)_j / H_jj                 Eq. (11)

The second is coordinate descent: with all other columns fixed, no other entry of the table loses less. So no step raises the loss. It
begins with k-means of the row, weighted by diag(H) (kmeans.py). Tables are stored as whole numbers of 8 bits times a scale: a row takes
new ones only where they lose less *as stored*.

Gives up: it ends in a local minimum. Columns are visited in a loop in torch; other codecs have a native one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import RowTablesTensor
from rwkvquant.quantizers.rowtables.kmeans import kmeans_rows, stored_tables, tensor_of
from rwkvquant.quantizers.shared.residual import Residual

ROUNDS = 3  # of tables and codes, as in the authors' code
PASSES = 4  # over the columns in a round
EPSILON = 1e-10  # of the mean of diag(P^T H P), added to it: an entry that no column uses stays where it is


def lnq(W: Tensor, H: Tensor, bits: int, rounds: int = ROUNDS, passes: int = PASSES) -> RowTablesTensor:
    """W (rows, in) and H (in, in) -> tables and codes."""
    start = kmeans_rows(W, bits, H.diagonal().clamp(min=0))
    codes = torch.from_numpy(start.codes).to(W.device).long()
    tables, scale = (torch.from_numpy(part).to(W) for part in (start.tables, start.row_scale[:, None]))
    residual = Residual(W, H, (tables * scale).gather(1, codes))
    for _ in range(rounds):
        tables, scale = _better(W, H, codes, tables, scale, residual)
        descend(residual, codes, tables * scale, passes)
    return tensor_of(codes, tables, scale)


def best_tables(W: Tensor, H: Tensor, codes: Tensor, values: Tensor) -> Tensor:
    """codes (rows, in) and the tables' values (rows, K) now -> the values that lose least, (rows, K). Computed in float64."""
    P = torch.nn.functional.one_hot(codes, values.shape[1]).double()  # (rows, in, K)
    HP = torch.einsum("ij,rjk->rik", H.double(), P)
    N, E = P.transpose(1, 2) @ HP, W.double() - values.double().gather(1, codes)
    slack = EPSILON * N.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.float64).tiny)
    N += slack[:, None, None] * torch.eye(N.shape[1], dtype=N.dtype, device=N.device)
    step = torch.linalg.solve(N, (E[:, None] @ HP)[:, 0])  # N d = P^T H (w - Q): what the values change by
    return values + step.to(values)


def _better(W: Tensor, H: Tensor, codes: Tensor, tables: Tensor, scale: Tensor, residual: Residual) -> tuple[Tensor, Tensor]:
    """New tables and scales for the rows where they lose less as stored. `residual` is updated."""
    new, new_scale = [], []
    for part, of_codes, values in zip(*(each.split(64) for each in (W, codes, tables * scale)), strict=True):  # a one-hot is large
        stored = stored_tables(best_tables(part, H, of_codes, values))
        new.append(stored[0])
        new_scale.append(stored[1])
    before, kept = residual.losses(), residual.copy()
    tried, tried_scale = torch.cat(new), torch.cat(new_scale)
    residual.reset((tried * tried_scale).gather(1, codes))
    better = residual.gained(before, residual.losses())
    residual.restore(~better, kept)
    return torch.where(better[:, None], tried, tables), torch.where(better[:, None], tried_scale, scale)


def descend(residual: Residual, codes: Tensor, values: Tensor, passes: int) -> None:
    """`passes` times over all columns; `codes` (rows, in) and `residual` are changed. values (rows, K)."""
    diagonal = residual.H.diagonal()
    curvature, seen = diagonal.unbind(), (diagonal > 0).tolist()
    by_column = codes.T.contiguous()
    Q = values.gather(1, codes).T.contiguous()

    def choose(columns: slice, G: Tensor) -> Tensor:
        j = columns.start
        if not seen[j]:  # the input was always 0: every entry loses the same
            return torch.zeros_like(G)
        now = Q[j]
        target = now + G[0] / curvature[j]
        code = (values - target[:, None]).abs().argmin(1)
        new = values.gather(1, code[:, None])[:, 0]
        better = (new - target).abs() < (now - target).abs()  # a tie changes nothing
        by_column[j] = torch.where(better, code, by_column[j])
        new = torch.where(better, new, now)
        change = (new - now)[None]
        Q[j] = new
        return change

    for _ in range(passes):
        residual.sweep(1, choose)
    codes.copy_(by_column.T)
