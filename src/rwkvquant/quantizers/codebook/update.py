"""The M-step: for given codes, move the centroids to where the loss is least.

    W  (rows, cols)     E = W - Q     H  (cols, cols)     s  (rows,)     A_r  (cols, K)  one-hot codes of row r in a column block

    loss = tr(E H E^T).   If the centroids of one table (a row block, the columns b) move by d (K,), it becomes

    loss(d) = loss - 2 g.d + d N d^T        g = sum_r s_r (E_r H)_b A_r        N = sum_r s_r^2 A_r^T H_bb A_r

The minimum is at d N = g. Row blocks are independent of each other. The column blocks of a row are not, so they are visited in turn,
with E and E H kept up to date (shared/residual.py). This is block Gauss-Seidel: it has the same minimum as one large system, but solves
for K unknowns at a time, for all row blocks at once.

Centroids are stored as whole numbers. So the sweep rounds each block when it is solved, and later blocks make up for the
rounding. A row block takes the result only where it loses less than before. On request, real sweeps come before this one, and
sweeps over single centroids after it. The loss along a single centroid is a parabola, so its best whole number is the nearest to
the minimum, and a step to it never raises the loss. docs/methods/gptvq.md derives all this.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, CodebookTensor
from rwkvquant.kernels import workshop
from rwkvquant.quantizers.codebook.kmeans import codebook_tensor
from rwkvquant.quantizers.shared.limits import LIMITS
from rwkvquant.quantizers.shared.residual import Residual


def update_codebooks(
    W: Tensor, H: Tensor, tensor: CodebookTensor, residual: Residual | None = None, real_sweeps: int = 0, whole_sweeps: int = 0
) -> CodebookTensor:
    """W (rows, cols), H (cols, cols) -> codebooks that lose no more, and the same codes, renumbered where centroids change places.

    `residual` is that of the tensor, and is updated. Real sweeps before and whole sweeps after the one that rounds reach the minimum
    for these codes. They gain nothing if codes are chosen again afterwards (docs/methods/gptvq.md).
    """
    moved = Centroids(residual or Residual(W, H, tensor.decode()), tensor)
    for _ in range(real_sweeps):
        moved.sweep(lambda N, g, block: _solve(N, g))
    moved.sweep(lambda N, g, block: _solve_whole(N, g, moved.c[:, block]))
    moved.restore_where_worse()
    for _ in range(whole_sweeps):
        if not moved.sweep(lambda N, g, block: _step_whole(N, g, moved.c[:, block])):
            break
    if whole_sweeps:
        moved.restore_where_worse()  # so that the promise holds in spite of rounding in the sums
    return sort_codebooks(moved.tensor())


def sort_codebooks(tensor: CodebookTensor) -> CodebookTensor:
    """The same weights, with every codebook ascending, as the choice of the nearest centroid needs it."""
    order = np.argsort(tensor.codebooks, axis=-1, kind="stable")
    places = np.argsort(order, axis=-1, kind="stable").astype(np.uint8)  # the new code of each old one
    rows, cols = tensor.shape
    row_block, col_block = np.arange(rows)[:, None] // tensor.group_rows, np.arange(cols)[None, :] // tensor.group_cols
    codes = places[row_block, col_block, tensor.codes]
    codebooks = np.take_along_axis(tensor.codebooks, order, -1)
    return CodebookTensor(codes, tensor.bits, codebooks, tensor.row_scale, tensor.group_rows, tensor.group_cols)


class Centroids:
    """Centroids that are being moved, and their residual. Rows are filled up to whole row blocks, with scale 0.

    codes: for each column block (row blocks, columns * group_rows) int64; c (row blocks, column blocks, K).
    """

    def __init__(self, residual: Residual, tensor: CodebookTensor) -> None:
        self.residual, self.like = residual, tensor
        W, rows = residual.W, len(residual.W)
        missing = -rows % tensor.group_rows
        self._scale = torch.nn.functional.pad(torch.from_numpy(tensor.row_scale).to(W), (0, missing))
        codes = torch.nn.functional.pad(torch.from_numpy(tensor.codes).to(W.device).T, (0, missing))
        self._by_column = codes.contiguous().cpu().numpy()  # (columns, rows)
        self.codes = [self._by_block(part).long() for part in codes.split(tensor.group_cols)]
        self.c = self.stored = torch.from_numpy(tensor.codebooks).to(W) - CENTROID_ZERO
        self.N: list[Tensor | None] = [None] * len(self.codes)  # each depends only on the codes
        self.start, self._before = residual.copy(), self._losses()

    def _by_block(self, values: Tensor) -> Tensor:
        """(columns, rows) -> (row blocks, columns * group_rows)."""
        return values.view(len(values), -1, self.like.group_rows).transpose(0, 1).flatten(1)

    def _losses(self) -> Tensor:
        """(row blocks,)"""
        losses = self.residual.losses()
        return torch.nn.functional.pad(losses, (0, -len(losses) % self.like.group_rows)).view(-1, self.like.group_rows).sum(1)

    def restore_where_worse(self) -> None:
        """Go back to the start in the row blocks whose loss did not fall. The centroids of all others are whole numbers by now."""
        worse = ~self.residual.gained(self._before, self._losses())
        self.residual.restore(worse.repeat_interleave(self.like.group_rows)[: len(self.residual.W)], self.start)
        self.c = torch.where(worse[:, None, None], self.stored, self.c)

    def tensor(self) -> CodebookTensor:
        like = self.like
        scale = self._scale[: len(self.residual.W), None]
        return codebook_tensor(torch.from_numpy(like.codes), self.c, scale, like.bits, like.group_rows, like.group_cols)

    def sweep(self, move: Callable[[Tensor, Tensor, int], Tensor]) -> bool:
        """For every column block in turn, change c by move(N, g, column block) in all row blocks. True if any centroid moved."""
        anything, rows = False, len(self.residual.W)
        self.c = self.c.clone()

        def change(columns: slice, G: Tensor) -> Tensor:
            nonlocal anything
            block = columns.start // self.like.group_cols
            codes = self.codes[block]
            values = torch.nn.functional.pad(G, (0, len(self._scale) - rows)) * self._scale
            g = torch.zeros_like(self.c[:, block]).scatter_add_(1, codes, self._by_block(values))
            N = self.N[block]
            if N is None:
                N = self.N[block] = self._native_gram(columns)
            if N is None:
                N = self.N[block] = self._gram(codes, self.residual.H[columns, columns])
            step = move(N, g, block)
            anything = anything or bool(step.any())
            self.c[:, block] += step
            D = step.gather(1, codes).view(len(codes), len(G), -1).transpose(0, 1).reshape(len(G), -1)
            return D.mul_(self._scale)[:, :rows]

        self.residual.sweep(self.like.group_cols, change)
        return anything

    def _native_gram(self, columns: slice) -> Tensor | None:
        if self._scale.device.type != "cpu":
            return None
        H = self.residual.H[columns, columns].contiguous().numpy()
        N = workshop.code_gram(
            self._by_column[columns], H, self._scale.numpy(), self.like.group_rows, 2**self.like.bits, torch.get_num_threads()
        )
        return None if N is None else torch.from_numpy(N)

    def _gram(self, codes: Tensor, H: Tensor) -> Tensor:
        """N of a column block: codes (row blocks, columns * group_rows), H (columns, columns) -> (row blocks, K, K)."""
        squares = self._scale.square().view(-1, 1, self.like.group_rows).expand(-1, len(H), -1)
        A = torch.zeros(*squares.shape, 2**self.like.bits, dtype=H.dtype, device=H.device)  # (row blocks, columns, group_rows, K)
        A.scatter_(3, codes.view(*squares.shape, 1), 1.0)
        weighted = torch.einsum("ij,pjrk->pirk", H, A * squares[..., None])
        return weighted.flatten(1, 2).mT @ A.flatten(1, 2)


def _solve(N: Tensor, g: Tensor) -> Tensor:
    """d N = g, (row blocks, K). Centroids without a weight (N_kk = 0) stay."""
    diagonal = N.diagonal(dim1=1, dim2=2)
    ridge = torch.where(diagonal > 0, 1e-6 * diagonal, 1.0)  # makes a singular N solvable; the step ends slightly before the minimum
    return torch.linalg.solve(N + torch.diag_embed(ridge), g)


def _solve_whole(N: Tensor, g: Tensor, c: Tensor) -> Tensor:
    """The real solution rounded, then improved until no step of a single centroid gains."""
    whole = (c + _solve(N, g)).round().clamp(*LIMITS)
    left = g - torch.einsum("pk,pkl->pl", whole - c, N)
    return whole - c + _step_whole(N, left, whole)


def _step_whole(N: Tensor, g: Tensor, c: Tensor) -> Tensor:
    """Move one centroid after the other to its best whole number, if that gains. c has whole numbers."""
    c, start, g = c.clone(), c, g.clone()
    for k in range(c.shape[1]):
        N_kk = N[:, k, k]
        best = torch.where(N_kk > 0, c[:, k] + g[:, k] / N_kk, c[:, k]).round().clamp(*LIMITS)
        step = best - c[:, k]
        gain = step * (2 * g[:, k] - step * N_kk)
        step = torch.where(gain > 1e-6 * step.square() * N_kk, step, 0.0)  # gains as small as the rounding of these sums do not count
        c[:, k] += step
        g -= step[:, None] * N[:, k]
    return c - start
