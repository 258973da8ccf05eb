"""The error of a matrix and the gradient of its loss, kept up to date while scales, tables and codes change.

    W  (rows, cols)     Q  what codes decode to     E = W - Q     H  (cols, cols)     G = E H     loss = sum E G = tr(E H E^T)

Both are stored column first, (cols, rows), so that the values of one column are side by side. A change of Q by D in the columns b
changes E by -D there, and G by -D H_b everywhere: at once in the FAR columns around, and once for all FAR columns elsewhere. So a
sweep over all columns costs one product with H. The loss of every row is known before and after it at no cost, and the next sweep
starts with current values. Computing both again would cost three products, two of them in float64.

Gives up: sums are kept in the type of W, and drift by its rounding; `reset` starts again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Change = Callable[[slice, Tensor], Tensor]  # columns, G (columns, rows) -> the change D of Q there (columns, rows)
BLOCK = 128  # columns between products with their neighbours
FAR = 1024  # columns between products with all others: sums over so many run at full speed
SLACK = 16.0  # a gain must be larger than this many roundings of the loss


class Residual:
    """E and G, (cols, rows) each, of one matrix whose codes are being chosen."""

    def __init__(self, W: Tensor, H: Tensor, Q: Tensor | NDArray[np.float32]) -> None:
        self.W, self.H = W, H.to(W)
        self.reset(Q)

    def reset(self, Q: Tensor | NDArray[np.float32]) -> None:
        """Start again from what the codes decode to, (rows, cols)."""
        self.E = (self.W - torch.as_tensor(Q).to(self.W)).T.contiguous()
        self.G = self.H @ self.E

    def losses(self) -> Tensor:
        """The rows' shares of the loss, (rows,) float64."""
        total = torch.zeros(len(self.W), dtype=torch.float64, device=self.W.device)
        for E, G in zip(self.E.split(BLOCK), self.G.split(BLOCK), strict=True):
            total += (E * G).sum(0, dtype=torch.float64)  # a few columns at a time, so that they fit in the cache
        return total

    def sweep(self, width: int, change: Change) -> None:
        """Call `change` for every `width` neighbouring columns in turn. The G that it gets includes all earlier changes."""

        def change_block(columns: slice, g: Tensor) -> Tensor:
            start, H = columns.start, self.H[columns, columns]
            D = torch.empty_like(g)
            for first in range(0, len(g), width):
                part = slice(first, min(first + width, len(g)))
                D[part] = change(slice(start + part.start, start + part.stop), g[part])
                g.addmm_(H[:, part], D[part], alpha=-1)
            return D

        self.sweep_blocks(max(BLOCK // width, 1) * width, change_block)

    def sweep_blocks(self, block: int, change: Change, last: bool = False) -> None:
        """Call `change` for every block of columns in turn. `change` itself keeps the G of its block up to date.

        last: nobody needs G any more, so it is kept up to date only in the columns to come: half of the work.
        """
        cols, far = len(self.E), max(FAR // block, 1) * block
        changes = torch.empty_like(self.E[:far])
        for first in range(0, cols, far):
            end = min(first + far, cols)
            for start in range(first, end, block):
                columns = slice(start, min(start + block, end))
                D = change(columns, self.G[columns])
                self.E[columns] -= D
                changes[start - first : columns.stop - first] = D
                self._update_gradient(columns, D, slice(start if last else first, end))
            self._update_gradient(slice(first, end), changes[: end - first], slice(first if last else 0, cols))

    def _update_gradient(self, columns: slice, D: Tensor, within: slice) -> None:
        """Subtract D H from G in all columns of `within` except `columns`, whose G is already up to date. D (columns, rows)."""
        for part in (slice(within.start, columns.start), slice(columns.stop, within.stop)):
            self.G[part].addmm_(self.H[part, columns], D, alpha=-1)

    def copy(self) -> tuple[Tensor, Tensor]:
        return self.E.clone(), self.G.clone()

    def restore(self, rows: Tensor, kept: tuple[Tensor, Tensor]) -> None:
        """Restore the chosen rows, (rows,) bool, to what they were when `kept` was copied."""
        if bool(rows.any()):
            self.E, self.G = torch.where(rows, kept[0], self.E), torch.where(rows, kept[1], self.G)

    def gained(self, before: Tensor, after: Tensor) -> Tensor:
        """Which losses (rows,) fell by more than rounding: (rows,) bool."""
        return after < before * (1 - SLACK * torch.finfo(self.W.dtype).eps)
