"""The grids of llama.cpp's block types, and the search for their scales.

    W  (rows, in)   weight, in groups of `group` neighbouring columns      weights (in,)  what an error in a column costs
    Q = scale q - minimum      q a whole number in lowest .. highest, scale and minimum (rows, groups)

    type    group  q          scale                    minimum           bits a weight
    q8_0    32     -127..127  d                        0                 8.5
    q4_0    32     -8..7      d                        0                 4.5
    q5_0    32     -16..15    d                        0                 5.5
    q6_K    16     -32..31    d c, c in -128..127      0                 6.5625
    q3_K    16     -4..3      d c, c in -32..31        0                 3.4375
    q4_K    32     0..15      d c, c in 0..63          e b, b in 0..63   4.5

d and e are float16; the types with K have one for 256 columns, and c and b for each group. Q needs no more than these, so that any search
may find them. Ours: for each group, the scale of least weighted error among CANDIDATES, fitted by least squares; then d from the largest
scale; then for every group the c (and b) near it with the least weighted error, as d and e have rounded it.

`weights` should be 1 / U_qq^2 (gptq.py): what an error costs after later columns have made up for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 2.0**-24  # float16's smallest number: a scale is never 0
CANDIDATES = torch.linspace(-1.2, 1.2, 25)  # steps by which the largest weight may miss the end of the grid
NEAR = 2  # codes of scales tried on each side
CHUNK = 1 << 22  # numbers tried at a time


@dataclass(frozen=True)
class BlockGrid:
    """One type. `block`: columns with one d; `code_low` .. `code_high`: the codes of scales, none where d is the scale itself."""

    name: str
    group: int
    lowest: int
    highest: int
    block: int
    code_low: int = 0
    code_high: int = 0
    has_minimum: bool = False

    @property
    def has_codes(self) -> bool:
        return self.code_high > 0


GRIDS = {
    grid.name: grid
    for grid in (
        BlockGrid("q8_0", 32, -127, 127, 32),
        BlockGrid("q4_0", 32, -8, 7, 32),
        BlockGrid("q5_0", 32, -16, 15, 32),
        BlockGrid("q6_K", 16, -32, 31, 256, -128, 127),
        BlockGrid("q3_K", 16, -4, 3, 256, -32, 31),
        BlockGrid("q4_K", 32, 0, 15, 256, 0, 63, has_minimum=True),
    )
}


@dataclass(frozen=True)
class Scales:
    """d and e (rows, blocks) float32 holding float16 values; codes and minimum_codes (rows, groups) whole numbers.

    scale and minimum (rows, groups): what they decode to, as llama.cpp computes it.
    """

    d: Tensor
    codes: Tensor | None = None
    e: Tensor | None = None
    minimum_codes: Tensor | None = None

    @property
    def scale(self) -> Tensor:
        return _spread(self.d, self.codes)

    @property
    def minimum(self) -> Tensor:
        return torch.zeros_like(self.scale) if self.e is None else _spread(self.e, self.minimum_codes)


def _spread(d: Tensor, codes: Tensor | None) -> Tensor:
    return d if codes is None else d.repeat_interleave(codes.shape[1] // d.shape[1], 1) * codes


def find_scales(W: Tensor, grid: BlockGrid, weights: Tensor) -> Scales:
    """W (rows, in) float32, weights (in,) or (rows, in), none negative. `in` is a multiple of grid.block."""
    rows, cols = W.shape
    assert cols % grid.block == 0, f"{grid.name} needs rows of a multiple of {grid.block}; got {cols}"
    weights = weights.to(W).expand(rows, cols)
    many = max(1, CHUNK // (cols * len(CANDIDATES)))
    parts = [_find(W[i : i + many], grid, weights[i : i + many]) for i in range(0, rows, many)]

    def joined(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    d = joined("d")
    assert d is not None
    return Scales(d, joined("codes"), joined("e"), joined("minimum_codes"))


def _find(W: Tensor, grid: BlockGrid, weights: Tensor) -> Scales:
    groups = W.shape[1] // grid.group
    x, w = W.reshape(-1, 1, grid.group), weights.reshape(-1, 1, grid.group)  # (groups of all rows, 1, group)
    w = w + 1e-12 * w.mean(2, keepdim=True) + 1e-30
    scale, minimum = (_with_minimum if grid.has_minimum else _symmetric)(x, w, grid)
    scale, minimum = scale.view(-1, groups), minimum.view(-1, groups)
    if not grid.has_codes:
        return Scales(_half(scale))
    per_block = grid.block // grid.group

    def largest(values: Tensor) -> Tensor:
        """Of each block, with its sign."""
        values = values.view(len(W), -1, per_block)
        return values.gather(2, values.abs().argmax(2, keepdim=True))[..., 0]

    end = grid.code_low or grid.code_high  # the end of the codes that reaches farther
    d = _half(largest(scale) / end)
    e = _half(largest(minimum) / grid.code_high) if grid.has_minimum else None
    codes, minimum_codes = _near_codes(x, w, grid, scale, minimum, d, e)
    return Scales(d, codes, e, minimum_codes)


def _half(values: Tensor) -> Tensor:
    """float16 values, none of them 0."""
    rounded = values.clamp(-65504, 65504).half().float()
    return torch.where(rounded == 0, SMALLEST, rounded)


def _symmetric(x: Tensor, w: Tensor, grid: BlockGrid) -> tuple[Tensor, Tensor]:
    """x (n, 1, group) -> scale (n,) and zeros: the largest weight lies near the longer end of the grid, or near the other one."""
    largest = x.gather(2, x.abs().argmax(2, keepdim=True))
    best, scale = None, None
    for end in {grid.lowest, grid.highest}:
        inverse = (end + CANDIDATES.to(x).view(1, -1, 1)) / torch.where(largest == 0, 1.0, largest)
        q = (x * inverse).round_().clamp_(grid.lowest, grid.highest)
        qq = (w * q * q).sum(2)
        xq = (w * x * q).sum(2)
        gain = torch.where(qq > 0, xq * xq / qq, 0.0)  # how much less than the error of all zeros
        chosen = gain.argmax(1, keepdim=True)
        gain, fitted = gain.gather(1, chosen)[:, 0], torch.where(qq > 0, xq / qq, 0.0).gather(1, chosen)[:, 0]
        better = gain > best if best is not None else torch.ones_like(gain, dtype=torch.bool)
        best = gain if best is None else torch.where(better, gain, best)
        scale = fitted if scale is None else torch.where(better, fitted, scale)
    assert scale is not None
    return scale, torch.zeros_like(scale)


def _with_minimum(x: Tensor, w: Tensor, grid: BlockGrid) -> tuple[Tensor, Tensor]:
    """x (n, 1, group) -> scale and minimum (n,), minimum at least 0: weighted least squares for each candidate's codes."""
    low, high = x.amin(2, keepdim=True).clamp(max=0), x.amax(2, keepdim=True)
    span = (high - low).clamp(min=1e-20)
    inverse = (grid.highest + CANDIDATES.to(x).view(1, -1, 1)) / span
    q = ((x - low) * inverse).round_().clamp_(0, grid.highest)
    s_w, s_x, s_q = w.sum(2), (w * x).sum(2), (w * q).sum(2)
    s_qq, s_xq = (w * q * q).sum(2), (w * x * q).sum(2)
    determinant = s_w * s_qq - s_q * s_q
    fits = determinant > 1e-12 * s_w * s_qq
    scale = torch.where(fits, (s_w * s_xq - s_x * s_q) / determinant, 1 / inverse[..., 0])
    minimum = torch.where(fits, (s_q * s_xq - s_qq * s_x) / determinant, -low[..., 0])
    alone = torch.where(s_qq > 0, s_xq / s_qq, scale)  # a minimum below 0 cannot be stored
    scale, minimum = torch.where(minimum < 0, alone, scale), minimum.clamp(min=0)
    error = (w * (scale[..., None] * q - minimum[..., None] - x).square()).sum(2)
    chosen = error.argmin(1, keepdim=True)
    return scale.gather(1, chosen)[:, 0], minimum.gather(1, chosen)[:, 0]


def _near_codes(
    x: Tensor, w: Tensor, grid: BlockGrid, scale: Tensor, minimum: Tensor, d: Tensor, e: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The codes near scale / d (and minimum / e) of least weighted error: (rows, groups) each."""
    per_block = grid.block // grid.group
    d_of = d.repeat_interleave(per_block, 1).reshape(-1, 1)
    e_of = None if e is None else e.repeat_interleave(per_block, 1).reshape(-1, 1)
    start = (scale.reshape(-1, 1) / d_of).round()
    start_minimum = torch.zeros_like(start) if e_of is None else (minimum.reshape(-1, 1) / e_of).round()
    best, code, minimum_code = torch.full_like(start, torch.inf), start.clone(), start_minimum.clone()
    for step in range(-NEAR, NEAR + 1):
        tried = (start + step).clamp(grid.code_low, grid.code_high)
        tried = torch.where(tried == 0, 1.0, tried)  # a scale is never 0
        for other in range(-NEAR, NEAR + 1) if e_of is not None else (0,):
            tried_minimum = (start_minimum + other).clamp(0, 63)
            s = (d_of * tried)[..., None]
            m = 0.0 if e_of is None else (e_of * tried_minimum)[..., None]
            q = ((x + m) / s).round_().clamp_(grid.lowest, grid.highest)
            error = (w * (s * q - m - x).square()).sum(2)
            better = error < best
            best = torch.where(better, error, best)
            code, minimum_code = torch.where(better, tried, code), torch.where(better, tried_minimum, minimum_code)
    return code.view_as(scale), None if e_of is None else minimum_code.view_as(scale)
