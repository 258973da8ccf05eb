"""The M-step: with the codes as they are, move the centroids to where the loss is least.

    W  (rows, cols)     E = W - Q     H  (cols, cols)     s  (rows,)     A_r  (cols, K)  one-hot codes of row r in a column block

    loss = tr(E H E^T),   and in a column block (columns b) of a row block, with its centroids moved by d (K,)

    loss(d) = loss - 2 g.d + d N d^T        g = sum_r s_r (E_r H)_b A_r        N = sum_r s_r^2 A_r^T H_bb A_r

The least is where d N = g. Row blocks are independent of each other; the column blocks of a row are not, so they are visited in
turn, E kept up to date (block Gauss-Seidel: the same minimum as one large system, with K unknowns at a time for
all row blocks at once, and a product with H as the only cost that matters).

Centroids are stored as whole numbers. So real sweeps are followed by one that rounds each block as it is solved, leaving the
blocks behind it to make up for the rounding, and that result is taken for the row blocks where it loses less than what was
there. Last come sweeps over single centroids: the loss along one of them is a parabola, so its best whole number is the
nearest to the minimum, and a step to it never raises the loss. docs/methods/gptvq.md derives all this.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rwkvquant.formats.qtensor import CENTROID_ZERO, CodebookTensor
from rwkvquant.quantizers.kmeans import LIMITS, codebook_tensor
from rwkvquant.quantizers.loss import row_losses

REAL_SWEEPS = 2  # eight end 0.1 % lower, and no lower once codes have been chosen again
WHOLE_SWEEPS = 2  # at most; as above


def update_codebooks(W: Tensor, H: Tensor, tensor: CodebookTensor) -> CodebookTensor:
    """W (rows, cols), H (cols, cols) -> the same codes, renamed where centroids change places, and codebooks that lose no more."""
    H = H.to(W)
    moved = Centroids(W, H, tensor)
    for _ in range(REAL_SWEEPS):
        moved.sweep(lambda N, g, block: _solve(N, g))
    moved.sweep(lambda N, g, block: _solve_whole(N, g, moved.c[:, block]))
    moved.restore_where_worse(tensor)
    for _ in range(WHOLE_SWEEPS):
        if not moved.sweep(lambda N, g, block: _step_whole(N, g, moved.c[:, block])):
            break
    moved.restore_where_worse(tensor)  # what is promised holds to the last bit, whatever rounding did to the sums
    return sort_codebooks(moved.tensor())


def sort_codebooks(tensor: CodebookTensor) -> CodebookTensor:
    """The same weights, with every codebook ascending: what choosing the nearest centroid relies on."""
    order = np.argsort(tensor.codebooks, axis=-1, kind="stable")
    places = np.argsort(order, axis=-1, kind="stable").astype(np.uint8)  # where each old code has gone
    rows, cols = tensor.shape
    row_block, col_block = np.arange(rows)[:, None] // tensor.group_rows, np.arange(cols)[None, :] // tensor.group_cols
    codes = places[row_block, col_block, tensor.codes]
    codebooks = np.take_along_axis(tensor.codebooks, order, -1)
    return CodebookTensor(codes, tensor.bits, codebooks, tensor.row_scale, tensor.group_rows, tensor.group_cols)


class Centroids:
    """Centroids on the move, with the error they leave. Rows are filled up to whole row blocks, with scale 0."""

    def __init__(self, W: Tensor, H: Tensor, tensor: CodebookTensor) -> None:
        self.W, self.H, self.like = W, H, tensor
        missing = -len(W) % tensor.group_rows
        self.codes = torch.nn.functional.pad(torch.from_numpy(tensor.codes).to(W.device).long(), (0, 0, 0, missing))
        self.scale = torch.nn.functional.pad(torch.from_numpy(tensor.row_scale).to(W), (0, missing))
        self._set(self._stored(tensor))

    def restore_where_worse(self, tensor: CodebookTensor) -> None:
        """Round to whole numbers, and go back to `tensor` in the row blocks that lose no less by it."""
        gained = row_losses(self.W, tensor.decode(), self.H) - row_losses(self.W, self.tensor().decode(), self.H)
        gained = torch.nn.functional.pad(gained, (0, len(self.codes) - len(gained))).view(-1, tensor.group_rows).sum(1)
        self._set(torch.where(gained[:, None, None] > 0, self._whole(), self._stored(tensor)))

    def _set(self, c: Tensor) -> None:
        self.c = c
        E = self.W - torch.from_numpy(self.tensor().decode()).to(self.W)
        self.E = torch.nn.functional.pad(E, (0, 0, 0, len(self.codes) - len(E)))

    def _stored(self, tensor: CodebookTensor) -> Tensor:
        return torch.from_numpy(tensor.codebooks).to(self.W) - CENTROID_ZERO

    def _whole(self) -> Tensor:
        return self.c.round().clamp(*LIMITS)

    def tensor(self) -> CodebookTensor:
        """As stored, rounded if need be."""
        like = self.like
        scale = self.scale[: len(self.W), None]
        return codebook_tensor(torch.from_numpy(like.codes), self._whole(), scale, like.bits, like.group_rows, like.group_cols)

    def sweep(self, move: Callable[[Tensor, Tensor, int], Tensor]) -> bool:
        """Every column block in turn: c moves by move(N, g, column block) for all row blocks. True if any centroid moved."""
        anything = False
        for block in range(self.c.shape[1]):
            start = block * self.like.group_cols
            b = slice(start, min(start + self.like.group_cols, self.H.shape[0]))
            A = self._one_hot(b)  # (row blocks, group_rows, columns, K), times the scales
            g = torch.einsum("prj,prjk->pk", (self.E @ self.H[:, b]).view(A.shape[:3]), A)
            N = torch.einsum("prik,ij,prjl->pkl", A, self.H[b, b], A)
            step = move(N, g, block)
            if bool(step.any()):
                anything = True
                self.c[:, block] += step
                self.E[:, b] -= torch.einsum("prjk,pk->prj", A, step).reshape(len(self.E), -1)
        return anything

    def _one_hot(self, b: slice) -> Tensor:
        codes = self.codes[:, b]
        A = torch.zeros(*codes.shape, 2**self.like.bits, dtype=self.W.dtype, device=self.W.device)
        A.scatter_(2, codes[..., None], self.scale[:, None, None].expand(*codes.shape, 1))
        return A.view(-1, self.like.group_rows, *A.shape[1:])


def _solve(N: Tensor, g: Tensor) -> Tensor:
    """d N = g, (row blocks, K). Centroids without a weight (N_kk = 0) stay."""
    diagonal = N.diagonal(dim1=1, dim2=2)
    ridge = torch.where(diagonal > 0, 1e-6 * diagonal, 1.0)  # keeps a singular N solvable; a little short of the minimum
    return torch.linalg.solve(N + torch.diag_embed(ridge), g)


def _solve_whole(N: Tensor, g: Tensor, c: Tensor) -> Tensor:
    """The real solution rounded, then stepped to where no single centroid can do better."""
    whole = (c + _solve(N, g)).round().clamp(*LIMITS)
    left = g - torch.einsum("pk,pkl->pl", whole - c, N)
    return whole - c + _step_whole(N, left, whole)


def _step_whole(N: Tensor, g: Tensor, c: Tensor) -> Tensor:
    """One centroid after the other to its best whole number, c being whole. It moves only if that gains something."""
    c, start, g = c.clone(), c, g.clone()
    for k in range(c.shape[1]):
        N_kk = N[:, k, k]
        best = torch.where(N_kk > 0, c[:, k] + g[:, k] / N_kk, c[:, k]).round().clamp(*LIMITS)
        step = best - c[:, k]
        gain = step * (2 * g[:, k] - step * N_kk)
        step = torch.where(gain > 1e-6 * step.square() * N_kk, step, 0.0)  # not within rounding of the parabola's own sums
        c[:, k] += step
        g -= step[:, None] * N[:, k]
    return c - start
