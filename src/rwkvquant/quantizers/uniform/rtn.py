"""RTN, round to nearest: every weight takes the nearest point of its group's grid.

The plain method. It needs no calibration unless the clip search weights errors with the Hessian's diagonal. It is used for
embeddings, heads and element-wise vectors (as one row).

Gives up: the errors of a row add up in the product's output; only in gptq.py do they cancel.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.codecs import GridConfig, UniformTensor
from rwkvquant.quantizers.uniform.grid import encode, find_matrix_grids, row_chunks, split_groups, uniform_tensor


def rtn(
    W: Tensor | NDArray[np.floating],
    grid: GridConfig,
    clip_search: str = "none",
    importance: Tensor | NDArray[np.floating] | None = None,
) -> UniformTensor:
    """W (rows, cols), float32 or float64; importance (cols,), the Hessian's diagonal, for clip_search "hessian" only."""
    W = torch.as_tensor(W)
    grids = find_matrix_grids(W, grid, clip_search, None if importance is None else torch.as_tensor(importance))
    codes = torch.empty(W.shape, dtype=torch.uint8, device=W.device)
    for rows in row_chunks(W):
        groups = split_groups(W[rows], grid)
        nearest = encode(groups, grids.scale[rows, :, None], grids.zero[rows, :, None], grid.bits)
        codes[rows] = nearest.flatten(1)[:, : W.shape[1]].to(torch.uint8)
    return uniform_tensor(codes, grids, grid)
