"""GPTQ: round one column at a time and let the columns to the right make up for its error (arXiv:2210.17323).

    W  (out, in)   weight              H  (in, in)   X^T X / tokens, damped
    F              the columns not rounded yet       U  (in, in)   upper triangular, H^-1 = U^T U

    w_q = nearest grid point of w,   delta_F = -(w - w_q) / [H_F^-1]_qq * (H_F^-1)_q,:            Eq. (2)

Removing column q from H_F^-1 is one step of Gaussian elimination (Eq. 3), so all the rows (H_F^-1)_q,: / sqrt([H_F^-1]_qq)
that will ever be needed are the rows of U, known before the first column is rounded. docs/methods/gptq.md derives this.
The update is lazy: the columns of a block are corrected at once, later columns once per block, by a matrix product.
That only changes the order of the sums.

Grids are found at the start of each group from the weights as corrected so far (the paper's way), or, `static_groups`, from
the original weights before the start. `act_order` rounds the columns with the largest diagonal of H first; its groups are
static, so that a column's grid is known whenever it is rounded. Codes and scales are stored in the original order.

Gives up: a row scale (8-bit scales) is fixed from the original weights, so a group is clipped if corrections make it larger
than the row's largest group was. The paper fits a group's grid before the corrections of the current block reach it; here
blocks end where groups begin, so the result does not depend on the block size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.codecs import GridConfig, UniformTensor
from rwkvquant.quantizers.shared.columns import GridColumns, feed_back
from rwkvquant.quantizers.shared.factor import InverseFactor, factorize
from rwkvquant.quantizers.uniform.grid import (
    Grids,
    decode,
    encode,
    find_group_grid,
    find_matrix_grids,
    find_row_scale,
    group_count,
    uniform_tensor,
)


def gptq(
    W: Tensor | NDArray[np.floating],
    H: Tensor | NDArray[np.floating],
    grid: GridConfig,
    *,
    damping: float = 0.05,
    act_order: bool = True,
    clip_search: str = "none",
    static_groups: bool = False,
    block_size: int = 128,
) -> UniformTensor:
    """W (out, in) and H (in, in) -> codes and grids. Computed in the type of W: float32, or float64."""
    W = torch.as_tensor(W)
    factor = factorize(torch.as_tensor(H).to(W), damping=damping, act_order=act_order)
    return gptq_with(factor, W, grid, clip_search=clip_search, static_groups=static_groups or act_order, block_size=block_size)


def gptq_with(
    factor: InverseFactor,
    W: Tensor,
    grid: GridConfig,
    *,
    clip_search: str = "none",
    static_groups: bool = False,
    block_size: int = 128,
    grids_of: Tensor | None = None,
) -> UniformTensor:
    """GPTQ on W (out, in) with a given factor of H. Columns out of order need static groups.

    `grids_of` (out, in): weights that static grids are found from, if not W.
    """
    rows, cols = W.shape
    order = factor.order.tolist()
    assert static_groups or order == list(range(cols)), "columns out of order need static groups"
    whole = W if grids_of is None else grids_of
    grids = find_matrix_grids(whole, grid, clip_search, factor.diagonal) if static_groups else _grids_to_come(W, grid)
    codes = torch.empty(cols, rows, dtype=torch.uint8, device=W.device)  # column first, in the order of rounding
    W, U = W[:, factor.order], factor.U  # W is now a copy, to be corrected in place
    columns = GridColumns(grids.scale, grids.zero, grid.bits) if static_groups else None

    for start, stop in _blocks(cols, block_size, None if static_groups else grid.group_size):
        if not static_groups and start % grid.group_size == 0:
            _set_group_grid(grids, start // grid.group_size, W, grid, clip_search, factor)
            columns = GridColumns(grids.scale, grids.zero, grid.bits)
        block = W[:, start:stop].T.contiguous()  # (columns, rows)
        assert columns is not None
        groups = [q // grid.group_size for q in order[start:stop]]
        native = feed_back(columns, block, U[start:stop, start:stop], groups)
        rounded, errors = native or round_block(block, U[start:stop, start:stop], grids, groups, grid.bits)
        codes[factor.order[start:stop]] = rounded
        W[:, stop:].addmm_(errors.T, U[start:stop, stop:], alpha=-1)  # Eq. (2), after the block
    return uniform_tensor(codes.T.contiguous(), grids, grid)


def round_block(block: Tensor, U: Tensor, grids: Grids, groups: list[int], bits: int) -> tuple[Tensor, Tensor]:
    """The definition: block (columns, rows), U of these columns -> codes uint8 and error / U_qq, both (columns, rows)."""
    block, codes, errors = block.clone(), torch.empty(block.shape, dtype=torch.uint8, device=block.device), torch.empty_like(block)
    for i, group in enumerate(groups):
        scale, zero = grids.scale[:, group], grids.zero[:, group]
        code = encode(block[i], scale, zero, bits)
        codes[i] = code
        errors[i] = (block[i] - decode(code, scale, zero)) / U[i, i]
        block[i + 1 :].addr_(U[i, i + 1 :], errors[i], alpha=-1)  # Eq. (2), inside the block
    return codes, errors


def _blocks(cols: int, block_size: int, group_size: int | None) -> Iterator[tuple[int, int]]:
    """Runs of at most block_size columns; with a group size, none crosses the start of a group."""
    start = 0
    while start < cols:
        stop = min(start + block_size, cols)
        if group_size is not None:
            stop = min(stop, start - start % group_size + group_size)
        yield start, stop
        start = stop


def _grids_to_come(W: Tensor, grid: GridConfig) -> Grids:
    scale = torch.empty(len(W), group_count(W.shape[1], grid), dtype=torch.float32, device=W.device)
    return Grids(scale, torch.empty_like(scale), find_row_scale(W, grid))


def _set_group_grid(grids: Grids, group: int, W: Tensor, grid: GridConfig, clip_search: str, factor: InverseFactor) -> None:
    columns = slice(group * grid.group_size, (group + 1) * grid.group_size)
    group_grid = find_group_grid(W[:, columns], grid, grids.row_scale, clip_search, factor.diagonal[columns])
    grids.scale[:, group], grids.zero[:, group] = group_grid
