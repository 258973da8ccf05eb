"""The grid of each group: one scale and one zero for `group_size` neighbours in a row.

    w  (g,)  the weights of a group        lo = min(w, 0)    hi = max(w, 0)    qmax = 2**bits - 1

    asymmetric   scale = (hi - lo) / qmax              zero = round(-lo / scale)
    symmetric    scale = 2 max(hi, -lo) / qmax         zero = 2**(bits - 1)
    code = clamp(round(w / scale) + zero, 0, qmax)     decoded = scale * (code - zero)

The range always includes 0, so 0 is always decoded as exactly 0. So pruned weights stay 0, and a short last group can be
filled with zeros: they change neither the range nor the error.

A scale is rounded to what the file can hold *before* the zero and the codes are chosen. A search compares candidates as
they will be decoded. Scales of 8 bits are `row_scale * scale_code`: row_scale is the largest min/max scale of the
row's groups over 255, as float16 rounded up, and scale_code is 1..255.

The clip search tries other ranges, factor * (lo, hi): a narrower one clips a few outliers and has a finer step. It minimises

    sum_j  importance_j (w_j - decoded_j)^2

over `shrink_factors`, with importance 1 ("weight") or the Hessian's diagonal ("hessian"). Only the diagonal is used: the
error of a row is  e H e^T,  and its diagonal part is a sum over columns, so that each group can be searched by itself, for all
groups at once. The other terms couple a group to every other group, including groups whose codes are not chosen yet; they are
left to the error feedback of GPTQ.

Gives up: the two ends of a range move together. Moving them apart was tried: 2 % less error with RTN at 3 bits, none with GPTQ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rwkvquant.codecs import GridConfig, UniformTensor
from rwkvquant.config import CLIP_SEARCHES
from rwkvquant.quantizers.shared.limits import LARGEST_HALF, SMALLEST_HALF

SEARCH_STEPS = 25  # half as many lose 1-3 % in RTN's error, twice as many gain 1 %
CHUNK_WEIGHTS = 1 << 19  # weights searched at a time: temporaries of a few MB for a matrix of any size


@dataclass(frozen=True)
class Grids:
    """The grids of a matrix, with the values that the file decodes to.

    scale (rows, groups) float32; zero (rows, groups) float32 holding whole numbers; row_scale (rows, 1) float32 holding
    float16 values, or None where scales are float16.
    """

    scale: Tensor
    zero: Tensor
    row_scale: Tensor | None


def shrink_factors(bits: int) -> tuple[float, ...]:
    """What the clip search multiplies a range by; 1 comes first, so that a search is never worse than none.

    They are evenly spaced in steps of the grid, from a range one step wider to one that is narrower by 5 steps or 60 %. The wider
    range helps when only one weight each gets the outermost codes. A fixed 1.0 .. 0.4 is as good at 2 and 3 bits, but too
    coarse from 5 bits on (6 % more error at 6 bits, where 5 steps are 8 % of the range).
    """
    steps = 2**bits - 1
    narrowest = min(0.6 * steps, 5)
    return 1.0, *(1 - (-1 + (narrowest + 1) * i / (SEARCH_STEPS - 1)) / steps for i in range(SEARCH_STEPS))


def find_matrix_grids(W: Tensor, grid: GridConfig, clip_search: str = "none", importance: Tensor | None = None) -> Grids:
    """W (rows, cols) float32 or float64, importance (cols,) for the "hessian" search -> the grid of every group."""
    row_scale = find_row_scale(W, grid)
    weights = _search_weights(clip_search, importance, W)
    scale = torch.empty(len(W), group_count(W.shape[1], grid), dtype=torch.float32, device=W.device)
    zero = torch.empty_like(scale)
    for rows in row_chunks(W):
        groups = split_groups(W[rows], grid)
        of_rows = None if row_scale is None else row_scale[rows]
        of_groups = None if weights is None else split_groups(weights[None], grid)
        scale[rows], zero[rows] = _find(groups, grid, of_rows, clip_search, of_groups)
    return Grids(scale, zero, row_scale)


def find_group_grid(
    W: Tensor, grid: GridConfig, row_scale: Tensor | None, clip_search: str = "none", importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """W (rows, g), one group of each row -> its scale (rows,) and zero (rows,), both float32."""
    weights = _search_weights(clip_search, importance, W)
    scale, zero = _find(W[:, None, :], grid, row_scale, clip_search, weights)
    return scale[:, 0], zero[:, 0]


def find_row_scale(W: Tensor, grid: GridConfig) -> Tensor | None:
    """W (rows, cols) -> (rows, 1) float32 holding float16 values; 255 times it is at least every min/max scale of the row."""
    if grid.scale_bits == 16:
        return None
    lo = torch.empty(len(W), group_count(W.shape[1], grid), dtype=W.dtype, device=W.device)
    hi = torch.empty_like(lo)
    for rows in row_chunks(W):
        lo[rows], hi[rows] = group_range(split_groups(W[rows], grid))
    return row_scale_of(lo, hi, grid)


def row_scale_of(lo: Tensor, hi: Tensor, grid: GridConfig) -> Tensor | None:
    """find_row_scale from the ranges of the groups, (rows, groups)."""
    if grid.scale_bits == 16:
        return None
    largest = _ideal_scale(lo, hi, grid).amax(1, keepdim=True).clamp(255 * SMALLEST_HALF, 255 * LARGEST_HALF)
    half = (largest / 255).half()
    next_half = (half.view(torch.int16) + 1).view(torch.float16)  # the next larger number, as all are positive
    return torch.where(255 * half.float() < largest, next_half.float(), half.float())


def stored_scale(ideal: Tensor, row_scale: Tensor | None) -> Tensor:
    """The nearest scale that the file can hold, as float32: row_scale * scale_code, 11 bits times 8, is exact."""
    if row_scale is None:
        return ideal.clamp(SMALLEST_HALF, LARGEST_HALF).half().float()
    return row_scale * (ideal / row_scale).round().clamp(1, 255).float()


def encode(w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Nearest codes as floating whole numbers; a tie goes to the even multiple of the scale."""
    return (w / scale).round_().add_(zero).clamp_(0, 2**bits - 1)


def decode(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """What a codec decodes: computed in float32, returned in the type of `codes`."""
    return ((codes - zero).float() * scale).to(codes.dtype)


def uniform_tensor(codes: Tensor, grids: Grids, grid: GridConfig) -> UniformTensor:
    """codes (rows, cols) uint8 and the grids -> the logical tensor."""
    zeros = None if grid.symmetric else grids.zero.to(torch.uint8).cpu().numpy()
    if grids.row_scale is None:
        scales = grids.scale.cpu().numpy().astype(np.float16)
        return UniformTensor(codes.cpu().numpy(), grid.bits, grid.group_size, zeros, scales=scales)
    scale_codes = (grids.scale / grids.row_scale).round().to(torch.uint8).cpu().numpy()
    row_scale = grids.row_scale[:, 0].cpu().numpy().astype(np.float16)
    return UniformTensor(codes.cpu().numpy(), grid.bits, grid.group_size, zeros, scale_codes=scale_codes, row_scale=row_scale)


def group_count(cols: int, grid: GridConfig) -> int:
    return -(-cols // grid.group_size)


def split_groups(W: Tensor, grid: GridConfig) -> Tensor:
    """(rows, cols) -> (rows, groups, group_size), a short last group filled with zeros."""
    rows, cols = W.shape
    groups = group_count(cols, grid)
    padded = torch.nn.functional.pad(W, (0, groups * grid.group_size - cols))
    return padded.view(rows, groups, grid.group_size)


def row_chunks(W: Tensor) -> Iterator[slice]:
    """Slices of rows that hold about CHUNK_WEIGHTS weights each."""
    step = max(1, CHUNK_WEIGHTS // max(1, W.shape[1]))
    for start in range(0, len(W), step):
        yield slice(start, start + step)


def _find(w: Tensor, grid: GridConfig, row_scale: Tensor | None, clip_search: str, importance: Tensor | None) -> tuple[Tensor, Tensor]:
    """w (rows, groups, g) -> scale and zero (rows, groups) float32; the first of equals wins."""
    lo, hi = group_range(w)
    scale, zero = stored_grid(lo, hi, grid, row_scale)
    if clip_search == "none":
        return scale, zero
    least = _search_error(w, scale, zero, grid, importance)
    for factor in shrink_factors(grid.bits)[1:]:
        tried_scale, tried_zero = stored_grid(factor * lo, factor * hi, grid, row_scale)
        error = _search_error(w, tried_scale, tried_zero, grid, importance)
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, tried_scale, scale)
        zero = torch.where(better, tried_zero, zero)
    return scale, zero


def group_range(w: Tensor) -> tuple[Tensor, Tensor]:
    return w.amin(-1).clamp(max=0), w.amax(-1).clamp(min=0)


def _ideal_scale(lo: Tensor, hi: Tensor, grid: GridConfig) -> Tensor:
    width = 2 * torch.maximum(hi, -lo) if grid.symmetric else hi - lo
    return width / (2**grid.bits - 1)


def stored_grid(lo: Tensor, hi: Tensor, grid: GridConfig, row_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    scale = stored_scale(_ideal_scale(lo, hi, grid), row_scale)
    if grid.symmetric:
        return scale, torch.full_like(scale, 2 ** (grid.bits - 1))
    return scale, (-lo / scale).round().clamp(0, 2**grid.bits - 1).float()


def _search_error(w: Tensor, scale: Tensor, zero: Tensor, grid: GridConfig, importance: Tensor | None) -> Tensor:
    scale, zero = scale[..., None], zero[..., None]
    error = decode(encode(w, scale, zero, grid.bits), scale, zero).sub_(w).square_()
    if importance is not None:
        error *= importance
    return error.sum(-1)


def _search_weights(clip_search: str, importance: Tensor | None, W: Tensor) -> Tensor | None:
    assert clip_search in CLIP_SEARCHES, clip_search
    if clip_search != "hessian":
        return None
    assert importance is not None, "the hessian clip search needs the Hessian's diagonal"
    return importance.to(W)
