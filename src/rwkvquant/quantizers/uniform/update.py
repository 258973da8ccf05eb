"""After GPTQ: scales go to where the loss is least for the current codes, then codes are chosen for the new scales, and so on.

    W  (rows, cols)     E = W - Q     H  (cols, cols)     n  (rows, g)  row_scale * (code - zero) in a group, 0 elsewhere

    a step d of a group's scale code changes Q by d n, so      loss(d) = loss - 2 d (E H n^T) + d^2 (n H n^T),

a parabola for each row: the best whole step is the nearest to  E H n^T / n H n^T. Rows are independent. The groups of a row are not,
so they are visited in turn, with E kept up to date. Float16 scales take a real step, if it still gains after rounding.
Codes then change by coordinate descent (descent.py). No step here raises the loss under the given H.

Gives up: zeros stay as they are. Moving them too gained nothing that could be measured.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rwkvquant.codecs import UniformTensor
from rwkvquant.quantizers.shared.descent import descend
from rwkvquant.quantizers.shared.residual import Residual
from rwkvquant.quantizers.uniform.descent import STEPS

ROUNDS = 2
SWEEPS = 1  # over the groups of a row, in a round; with two the loss is no lower
PASSES = 3  # of descent in a round; docs/methods/descent.md compares
LARGEST_CODE = 255


def refine_grid(W: Tensor, H: Tensor, q: UniformTensor, rounds: int = ROUNDS) -> UniformTensor:
    """W (rows, cols), H (cols, cols) -> scales and codes that lose no more."""
    if rounds:
        residual = Residual(W, H, q.decode())
        for _ in range(rounds):
            q = descend(STEPS, W, H, update_scales(W, H, q, residual=residual), PASSES, residual)
    return q


def update_scales(W: Tensor, H: Tensor, q: UniformTensor, sweeps: int = SWEEPS, residual: Residual | None = None) -> UniformTensor:
    """The same codes, with scales that lose no more in any row. `residual` is that of q, and is updated."""
    residual = residual or Residual(W, H, q.decode())
    codes = torch.from_numpy(q.codes).to(W.device).T.contiguous()
    zeros = torch.from_numpy(q.group_zeros()).to(W).T.contiguous()  # (groups, rows)
    scales = torch.from_numpy(q.group_scales()).to(W).T.contiguous()
    row_scale = None if q.row_scale is None else torch.from_numpy(q.row_scale).to(W)

    def move(columns: slice, G: Tensor) -> Tensor:
        group = columns.start // q.group_size
        n = codes[columns].to(W) - zeros[group]
        slope = (G * n).sum(0)
        curve = ((residual.H[columns, columns] @ n) * n).sum(0)
        new = _stored(scales[group] + torch.where(curve > 0, slope / curve, 0.0).nan_to_num(0.0, 0.0, 0.0), row_scale)
        step = new - scales[group]
        step = torch.where(step * (2 * slope - step * curve) > 0, step, 0.0)
        scales[group] += step
        return n.mul_(step)

    for _ in range(sweeps):
        residual.sweep(q.group_size, move)
    return _with_scales(q, scales.T)


def _stored(scales: Tensor, row_scale: Tensor | None) -> Tensor:
    """The nearest scales (rows,) that the file can hold."""
    if row_scale is None:
        return scales.clamp(min=2.0**-24, max=65504.0).half().to(scales)
    return row_scale * (scales / row_scale).round().clamp(1, LARGEST_CODE)


def _with_scales(q: UniformTensor, scales: Tensor) -> UniformTensor:
    values = np.ascontiguousarray(scales.cpu().numpy())
    if q.row_scale is None:
        return replace(q, scales=values.astype(np.float16))
    codes = np.rint(values / q.row_scale.astype(values.dtype)[:, None]).astype(np.uint8)
    return replace(q, scale_codes=codes)
