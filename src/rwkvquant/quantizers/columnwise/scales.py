"""The scales of the rows, before any code is chosen. Those of the columns are fitted when their columns are rounded (walk.py).

    s_r  root mean square of W_rc / d_c, over columns weighted by importance_c d_c^2        d_c  root mean square of W_rc / s_r over rows

They are computed in turn, a few times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.quantizers.columnwise.state import as_half

TURNS = 3
LEAST = 1e-4  # of the largest scale: what a row or a column of zeros gets


def row_scales(W: Tensor, importance: Tensor) -> Tensor:
    """W (rows, cols), importance (cols,) none negative -> (rows,), holding float16 values.

    They have half of the weights' order of magnitude, and leave the other half to the scales of columns, so that neither comes near the
    smallest float16.
    """
    if not bool((importance > 0).any()):
        importance = torch.ones_like(importance)
    d = root(W.square().mean(0))
    s = torch.ones_like(W[:, 0])
    for _ in range(TURNS):
        p = importance * d.square()
        s = root((W / d).square() @ (p / p.sum()))
        s = s / s.square().mean().sqrt()
        d = root((W / s[:, None]).square().mean(0))
    return as_half(s * d.mean().sqrt())


def root(squares: Tensor) -> Tensor:
    """The square roots, all above 0."""
    sizes = squares.sqrt()
    return sizes.clamp(min=LEAST * float(sizes.max()) or 1.0)
