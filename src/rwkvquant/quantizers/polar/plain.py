"""Codes without feedback: every vector of eight columns takes the nearest direction and level.

    W  (out, in)     s  (out,)  the deviation of a row, |row| / sqrt(in)      w / s is close to normal where the input is rotated

    row_scale = s c_last / 63        so that a stored number 63 is the last level c_last (kernels/gemv_polar.py)

In the style of the paper that is all. Our own takes the level for the projection on the direction and not for the length, and fits s to it:
with the levels fixed, s = sum(p c) / sum(c^2) over the row's projections p; with s fixed, the levels; a few times.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwkvquant.codecs import PolarConfig, PolarTensor
from rwkvquant.kernels.directions import LENGTH
from rwkvquant.kernels.gemv_polar import LARGEST
from rwkvquant.quantizers.polar.assign import codebook, level_of, nearest
from rwkvquant.quantizers.polar.levels import largest, levels
from rwkvquant.quantizers.shared.limits import LARGEST_HALF, SMALLEST_HALF

FITS = 4


def plain_codes(W: Tensor, config: PolarConfig, tuned: bool) -> PolarTensor:
    """W (rows, cols) -> the logical tensor."""
    x = padded(W)  # (rows, vectors, 8)
    c = levels(config.magnitude_bits).to(W)
    V = only(codebook(config.directions, config.direction_bits).to(W), W.shape[1])
    direction, along = codes_of(x, V, W.shape[1])
    length = along if tuned else x.norm(dim=2)
    s = deviation(W)
    for _ in range(FITS if tuned else 0):
        level = c[level_of(length / s, c)]
        s = (length * level).sum(1, keepdim=True) / level.square().sum(1, keepdim=True)
    row_scale = half_scale(s, config)
    level = level_of(length / unit(row_scale, config), c)
    return polar_tensor(direction, level, row_scale, config, W.shape[1])


def codes_of(x: Tensor, V: Tensor | list[Tensor], cols: int) -> tuple[Tensor, Tensor]:
    """x (rows, vectors, 8) -> directions and v . x / |v|^2, (rows, vectors) each. `V`: as `only` gives it."""
    whole, last = V if isinstance(V, list) else (V, V)
    rows, count = x.shape[:2]
    parts = [nearest(x[:, : count - 1].reshape(-1, LENGTH), whole), nearest(x[:, -1], last)]
    direction, along = (torch.cat([first.view(rows, count - 1), second.view(rows, 1)], 1) for first, second in zip(*parts, strict=True))
    return direction, along


def only(V: Tensor, cols: int) -> list[Tensor]:
    """The codebook of all vectors but the last, and of the last, whose components beyond the matrix do not count."""
    last = V.clone()
    if cols % LENGTH:
        last[:, cols % LENGTH :] = 0
    return [V, last]


def padded(W: Tensor) -> Tensor:
    """W (rows, cols) -> (rows, vectors, 8), with zeros beyond the last column."""
    return torch.nn.functional.pad(W, (0, -W.shape[1] % LENGTH)).view(len(W), -1, LENGTH)


def deviation(W: Tensor) -> Tensor:
    """(rows, 1): |row| / sqrt(cols)."""
    return W.square().mean(1, keepdim=True).sqrt().clamp(min=SMALLEST_HALF)


def half_scale(s: Tensor, config: PolarConfig) -> Tensor:
    """Deviations (rows, 1) -> row_scale (rows, 1), float16 values in the type of s."""
    return (s * (largest(config.magnitude_bits) / LARGEST)).clamp(SMALLEST_HALF, LARGEST_HALF).half().to(s.dtype)


def unit(row_scale: Tensor, config: PolarConfig) -> Tensor:
    """The inverse of `half_scale`: what a level of 1 stands for."""
    return row_scale * (LARGEST / largest(config.magnitude_bits))


def polar_tensor(direction: Tensor, level: Tensor, row_scale: Tensor, config: PolarConfig, cols: int) -> PolarTensor:
    """direction, level (rows, vectors), row_scale (rows, 1) holding float16 values -> the logical tensor."""
    codes = (direction + (level << config.direction_bits)).cpu().numpy().astype(np.uint32)
    half = row_scale[:, 0].cpu().numpy().astype(np.float16)
    return PolarTensor(codes, config.direction_bits, config.magnitude_bits, config.directions, half, cols)
