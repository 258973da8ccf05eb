"""Error feedback onto llama.cpp's grids: codes of least output error for scales that are found before the first column is rounded.

    W  (out, in)   weight       H  (in, in)  second moments of the input      U  (in, in)  of its damped inverse, see ../shared/factor.py

    q = nearest code of w,   delta_F = -(w - Q) / U_qq  U_q,F                  Eq. (2) of GPTQ, arXiv:2210.17323; ../uniform/gptq.py

What a column's error costs in the end is (w - Q)^2 / U_qq^2, since later columns make up for the rest: these are the weights of the search
for scales (grids.py). Groups are runs along `in`, and so are llama.cpp's blocks: their scales do not depend on the order of rounding, and
the columns with the largest diagonal of H go first. Then descent (../shared/descent.py has the mathematics): each code in turn, all others
fixed, is moved where that gains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rwkvquant.quantizers.gguf.grids import BlockGrid, Scales, find_scales
from rwkvquant.quantizers.shared.factor import InverseFactor, factorize_balanced

BLOCK = 128  # columns that are corrected at once
PASSES = 2  # of descent
ROWS = 4096  # that are rounded at once


@dataclass(frozen=True)
class BlockCodes:
    """codes (rows, in), whole numbers in grid.lowest .. grid.highest, and their scales."""

    grid: BlockGrid
    codes: Tensor
    scales: Scales

    def decode(self) -> Tensor:
        """(rows, in) float32"""
        scale, minimum = (values.repeat_interleave(self.grid.group, 1) for values in (self.scales.scale, self.scales.minimum))
        return scale * self.codes - minimum


def nearest(W: Tensor, grid: BlockGrid, weights: Tensor) -> BlockCodes:
    """Without error feedback: what `gptq` is compared with."""
    scales = find_scales(W, grid, weights)
    scale, minimum = (values.repeat_interleave(grid.group, 1) for values in (scales.scale, scales.minimum))
    return BlockCodes(grid, ((W + minimum) / scale).round().clamp(grid.lowest, grid.highest), scales)


def gptq(W: Tensor, H: Tensor, grid: BlockGrid, damping: float = 0.01, passes: int = PASSES) -> BlockCodes:
    """W (out, in) float32 and H (in, in): an error E (out, in) costs tr(E H E^T)."""
    H = H.to(W)
    factor = factorize_balanced(H, W, damping=damping, act_order=True)
    weights = torch.empty_like(factor.diagonal)
    weights[factor.order] = factor.U.diagonal().square().reciprocal()
    scales = find_scales(W, grid, weights)
    codes = torch.empty_like(W)
    for start in range(0, len(W), ROWS):  # rows do not depend on one another, and those of an embedding are many
        part = slice(start, start + ROWS)
        scale, minimum = (values[part].repeat_interleave(grid.group, 1) for values in (scales.scale, scales.minimum))
        codes[part] = _feed_back(W[part], factor, scale, minimum, grid)
        for _ in range(passes):
            _descend(W[part], H, codes[part], scale, minimum, grid)
    return BlockCodes(grid, codes, scales)


def _feed_back(W: Tensor, factor: InverseFactor, scale: Tensor, minimum: Tensor, grid: BlockGrid) -> Tensor:
    cols, order, U = W.shape[1], factor.order, factor.U
    left = W[:, order].T.contiguous()  # (in, rows) in the order of rounding, corrected in place
    scale, minimum = scale[:, order].T.contiguous(), minimum[:, order].T.contiguous()
    codes, errors = torch.empty_like(left), torch.empty_like(left)
    for start in range(0, cols, BLOCK):
        stop = min(start + BLOCK, cols)
        for q in range(start, stop):
            codes[q] = ((left[q] + minimum[q]) / scale[q]).round_().clamp_(grid.lowest, grid.highest)
            errors[q] = (left[q] - (scale[q] * codes[q] - minimum[q])) / U[q, q]
            left[q + 1 : stop].addr_(U[q, q + 1 : stop], errors[q], alpha=-1)
        left[stop:].addmm_(U[start:stop, stop:].T, errors[start:stop], alpha=-1)
    result = torch.empty_like(codes)
    result[order] = codes
    return result.T.contiguous()


def _descend(W: Tensor, H: Tensor, codes: Tensor, scale: Tensor, minimum: Tensor, grid: BlockGrid) -> None:
    """One pass over all columns; `codes` are changed in place, and no row loses more than before."""
    G = (W - (scale * codes - minimum)) @ H
    for j in range(W.shape[1]):
        if H[j, j] <= 0:
            continue
        new = (codes[:, j] + G[:, j] / (H[j, j] * scale[:, j])).round_().clamp_(grid.lowest, grid.highest)
        change = scale[:, j] * (new - codes[:, j])
        gains = H[j, j] * change.square() < 2 * G[:, j] * change
        change = torch.where(gains, change, 0.0)
        codes[:, j] = torch.where(gains, new, codes[:, j])
        G.addr_(change, H[j], alpha=-1)
