"""The error of rounding a matrix to each of many grids, in one pass: a budget without calibration compares its candidates by it.

    W  (rows, cols)  some rows of a matrix      error of a grid  =  sum (W - Q)^2  with Q from rtn.py

The definition is one call of `rtn` for each grid. Most of its time goes into starting small operations: 21 grids with 26 ranges each
need 15000 of them. Here grids with the same group size share the ranges of the groups, and a grid tries its ranges together, up to
CHUNK numbers at a time. Every number is computed as in the definition, so errors are the same to the last bit.

Gives up: the search by the Hessian's diagonal, because there is no calibration when a budget asks for these errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rwkvquant.codecs import GridConfig
from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.uniform.grid import group_range, row_scale_of, shrink_factors, split_groups, stored_grid

CHUNK = 1 << 17  # numbers tried at a time: half a megabyte, which fits in the cache


def rtn_errors(W: Tensor, grids: Sequence[GridConfig], options: QuantizerOptions) -> list[float]:
    """W (rows, cols) float32 -> sum (W - rtn(W))^2 for each of the grids."""
    of_groups: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    errors = []
    for grid in grids:
        if grid.group_size not in of_groups:
            w = split_groups(W, grid)
            of_groups[grid.group_size] = (w, *group_range(w))
        with _one_thread():
            Q = _rounded(*of_groups[grid.group_size], grid, shrink_factors(grid.bits) if options.clip_search != "none" else (1.0,))
        errors.append(float((W - Q.flatten(1)[:, : W.shape[1]]).double().square().sum()))
    return errors


def _rounded(w: Tensor, lo: Tensor, hi: Tensor, grid: GridConfig, factors: tuple[float, ...]) -> Tensor:
    """w (rows, groups, g) and its ranges (rows, groups) -> the decoded nearest codes of the best grids, in the
    shape of w."""
    shrunk = torch.tensor(factors, dtype=w.dtype, device=w.device)[:, None, None]
    scale, zero = stored_grid(shrunk * lo, shrunk * hi, grid, row_scale_of(lo, hi, grid))  # (factors, rows, groups)
    at_once = max(1, CHUNK // w.numel())
    buffer = w.new_empty(at_once, *w.shape)
    if len(factors) > 1:
        errors = torch.empty_like(scale)
        for start in range(0, len(factors), at_once):
            some = slice(start, start + at_once)
            torch.sum(_nearest(w, scale[some], zero[some], grid.bits, buffer).sub_(w).square_(), -1, out=errors[some])
        best = errors.argmin(0, keepdim=True)  # the first of equals
        scale, zero = scale.gather(0, best), zero.gather(0, best)
    return _nearest(w, scale, zero, grid.bits, buffer)[0]


@contextmanager
def _one_thread() -> Iterator[None]:
    """A second thread costs more time than it saves where an operation takes microseconds. No result here depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _nearest(w: Tensor, scale: Tensor, zero: Tensor, bits: int, buffer: Tensor) -> Tensor:
    """w (rows, groups, g), scale and zero (factors, rows, groups) -> the nearest values, written to `buffer`: encode and
    decode of grid.py."""
    scale, zero = scale[..., None], zero[..., None]
    return torch.div(w, scale, out=buffer[: len(scale)]).round_().add_(zero).clamp_(0, 2**bits - 1).sub_(zero).mul_(scale)
