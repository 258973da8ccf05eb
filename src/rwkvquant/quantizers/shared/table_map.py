"""The linear map from tables of centroids to the weights they stand for, its transpose, and least squares under the Hessian.

    t  tables, any shape         (A t)_rj = s_r t[index_rj]         (A^T e)_k = sum of s_r e_rj over the weights with index k

    minimise over t    tr((E - A t) H (E - A t)^T)

The normal equations A^T (A t H) = A^T (E H) are too large to be stored, because a table that serves many columns involves all of H.
Conjugate gradients need one product with H in each step. docs/methods/gptvq.md and docs/methods/pairs.md say where this is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TableMap:
    """scale (rows, 1); index (rows, cols) int64 into the flattened tables; shape of the tables."""

    scale: Tensor
    index: Tensor
    shape: tuple[int, ...]

    def spread(self, tables: Tensor) -> Tensor:
        """A t: tables -> (rows, cols)."""
        return self.scale * tables.flatten()[self.index]

    def gather(self, values: Tensor) -> Tensor:
        """A^T e: (rows, cols) -> tables."""
        return self._add(self.scale * values)

    def weights(self, diagonal: Tensor) -> Tensor:
        """The diagonal of A^T H A where H is diagonal (cols,): sum of s_r^2 H_jj over the weights of each centroid, as tables."""
        return self._add(self.scale.square() * diagonal)

    def _add(self, values: Tensor) -> Tensor:
        total = torch.zeros(self.shape, dtype=values.dtype, device=values.device)
        total.view(-1).index_add_(0, self.index.flatten(), values.expand(self.index.shape).flatten())
        return total


def least_squares(gradient: Tensor, H: Tensor, spread: Map, gather: Map, precondition: Map, independent: int, steps: int) -> Tensor:
    """`steps` of preconditioned conjugate gradients from 0: the parameters t by which tr((E - A t) H (E - A t)^T) falls.

    gradient is A^T (E H). spread is A: parameters -> (rows, cols); gather is its transpose; precondition is symmetric, and about the
    inverse of A^T H A. The first `independent` axes of the parameters number independent problems; each has its own step lengths.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        product = a * b
        return product.sum(tuple(range(independent, a.dim())), keepdim=True)

    t = torch.zeros_like(gradient)
    residual = precondition(gradient)
    direction, slope = residual, dot(gradient, residual)
    for _ in range(steps):
        product = gather(spread(direction) @ H)
        curvature = dot(direction, product)
        length = torch.where(curvature > 0, slope / curvature, 0.0)
        t = t + length * direction
        gradient = gradient - length * product
        residual = precondition(gradient)
        before, slope = slope, dot(gradient, residual)
        direction = residual + torch.where(before > 0, slope / before, 0.0) * direction
    return t
